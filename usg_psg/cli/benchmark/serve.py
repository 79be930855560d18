"""Load test of `usg-psg serve`."""

from __future__ import annotations

import asyncio
import io
import itertools
import statistics
import threading
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

from PIL import Image
from tabulate import tabulate

from ...data.psg_shapes import make_psg_shapes_scene
from ...data.uploads import Limits
from ...scene_graph import SceneGraph
from ..serve import server_module
from .inference import load
from .measure import device_name

HOST, PATH = "127.0.0.1", "/scene-graph"


def run(args: Namespace) -> int:
    """Measure each setting; 1 if an answer was lost or wrong."""
    http, predictor = server_module(), load(args)
    image = make_psg_shapes_scene("easy", tuple(args.size), 0, "val", 0).image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=92)
    wanted = predictor(image).height, predictor(image).width
    rows, lost = [], 0
    for max_batch in args.max_batch:
        settings = http.Settings(Limits(), max_batch, args.max_wait / 1000, queue=args.clients)
        service = http.Service(lambda: predictor, settings)
        server = http.Server(service, HOST, 0)
        thread = threading.Thread(target=lambda each=server: asyncio.run(each.serve()))
        thread.start()
        while not (server.started and service.ready):
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        send(port, file.getvalue(), wanted, args.clients, max(args.requests // 10, 1))
        begin = time.perf_counter()
        times = send(port, file.getvalue(), wanted, args.clients, args.requests)
        seconds = time.perf_counter() - begin
        names = ("usg_psg_batch_images_sum", "usg_psg_batch_images_count")
        images, batches = (service.registry.get_sample_value(name) or 0.0 for name in names)
        service.draining = True
        thread.join()
        median, *_, highest = statistics.quantiles([1000 * each for each in times], n=100)[49:]
        missing = args.requests - len(times)
        rows.append((max_batch, images / batches, len(times) / seconds, median, highest, missing))
        lost += missing
    size = " x ".join(map(str, args.size))
    print(f"{device_name(predictor.model.device)}, {size} pixels, {args.clients} clients, wait {args.max_wait:g} ms")
    head = ("max batch", "mean batch", "requests/s", "p50 ms", "p99 ms", "lost")
    print(tabulate(rows, head, tablefmt="pipe", floatfmt=".1f"))
    return 1 if lost else 0


def send(port: int, body: bytes, wanted: tuple[int, int], clients: int, requests: int) -> list[float]:
    """Seconds of each request that was answered with a graph of the wanted size; clients share the requests."""
    numbers = itertools.count()

    def client(_: int) -> list[float]:
        connection, times = HTTPConnection(HOST, port, timeout=600), []
        while next(numbers) < requests:
            begin = time.perf_counter()
            try:
                connection.request("POST", PATH, body)
                answer = connection.getresponse()
                text = answer.read().decode()
            except OSError:
                connection.close()
                continue
            took = time.perf_counter() - begin
            if answer.status == 200:
                graph = SceneGraph.from_json(text)
                times += [took] if (graph.height, graph.width) == wanted else []
        connection.close()
        return times

    with ThreadPoolExecutor(clients) as pool:
        return list(itertools.chain.from_iterable(pool.map(client, range(clients))))
