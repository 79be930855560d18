# Serves a model over HTTP (docs/serving.md), as a user without rights.
#   docker build -t usg-psg .                            for the CPU
#   docker build -t usg-psg:cuda --build-arg DEVICE=cuda .
#   docker run -p 8000:8000 -v "$PWD/my_model:/model:ro" usg-psg --weights /model        (CUDA: --gpus 1)
FROM python:3.12 AS build
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PATH=/opt/venv/bin:$PATH
WORKDIR /src
RUN python -m venv /opt/venv
# PyTorch first: its layer outlives changes of the source. PyPI has the build for CUDA, which brings CUDA's libraries.
# hadolint ignore=DL3013
RUN case "$DEVICE" in \
      cpu) pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu ;; \
      cuda) pip install torch torchvision ;; \
      *) echo "DEVICE: expected cpu or cuda, got $DEVICE" >&2; exit 1 ;; \
    esac
COPY . .
# The compiled deformable attention for the CPU; on a GPU, PyTorch's own kernels do the same (docs/ops.md).
# hadolint ignore=DL3013
RUN pip install '.[serve]' 'setuptools>=77' wheel ninja \
 && pip install --no-build-isolation ./mask2former_ops

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 server
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/server
EXPOSE 8000
# The model is loaded after the first answers: /ready says when, for those who can wait for it.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["usg-psg", "serve", "--host", "0.0.0.0"]
CMD ["--help"]
