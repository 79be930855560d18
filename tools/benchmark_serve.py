#!/usr/bin/env python
"""Load test of `usg-psg serve` on the loopback address: requests per second and latency, by batch size and wait.

    python tools/benchmark_serve.py --config-file configs/psg/usg_par_convnext_large.yaml --clients 32 \\
        --max-batch 1 4 16 --opts MODEL.CLIP.PRETRAINED "" TEST.USG.DTYPE bfloat16

Clients in threads of this process send one JPEG after the other, each as soon as its last one is answered. Without
MODEL.WEIGHTS the weights are random, and made-up objects replace the results, as in benchmark_inference.py.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import io
import itertools
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmark_inference import load
from measure import device_name, program
from PIL import Image
from tabulate import tabulate

from usg_psg.data.psg_shapes import make_psg_shapes_scene
from usg_psg.data.uploads import Limits
from usg_psg.scene_graph import SceneGraph
from usg_psg.server import PATH, Server, Service, Settings
from usg_psg_cli.arguments import add_config, add_number, positive_integer, positive_number

HOST = "127.0.0.1"


def define(parser: argparse.ArgumentParser) -> None:
    """Arguments of this program."""
    add_config(parser)
    parser.add_argument("--size", type=positive_integer, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    add_number(parser, "--objects", positive_integer, 15, "that stand in, with random weights")
    add_number(parser, "--clients", positive_integer, 16, "at a time")
    add_number(parser, "--requests", positive_integer, 200, "for each batch size, after a tenth of it unmeasured")
    parser.add_argument("--max-batch", type=positive_integer, nargs="+", default=[1, 4, 16], metavar="N")
    add_number(parser, "--max-wait", positive_number, 10, "that an image waits for others", "MS")


def run(args: argparse.Namespace) -> int:
    """Measure each setting; 1 if an answer was lost or wrong."""
    predictor = load(args)
    image = make_psg_shapes_scene("hard", tuple(args.size), 0, "val", 0).image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=92)
    wanted = predictor(image).height, predictor(image).width
    rows, lost = [], 0
    for max_batch in args.max_batch:
        settings = Settings(Limits(), max_batch, args.max_wait / 1000, queue=args.clients)
        service = Service(lambda: predictor, settings)
        server = Server(service, HOST, 0)
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
        connection, times = http.client.HTTPConnection(HOST, port, timeout=600), []
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


main = program(define, run, __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
