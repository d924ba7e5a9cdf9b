# syntax=docker/dockerfile:1
# Targets: `cpu` (default) and `gpu`. Serving needs no torch; only the stage that writes the GPU's graphs has it.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/polyseme
COPY pyproject.toml README.md ./
COPY clients/python clients/python
COPY encoder encoder
COPY index index
COPY server server
RUN /opt/polyseme/bin/pip install ./clients/python .

# The model ships in int8, for CPUs; a GPU wants fp16.
FROM build AS model-gpu
COPY models/polyseme-nano /models/default
RUN /opt/polyseme/bin/pip install torch==2.13.0 \
 && /opt/polyseme/bin/pip install './clients/python' '.[train]' \
 && /opt/polyseme/bin/polyseme-model export /models/default --precision fp16

# The GPU wheel also runs on CPU but weighs ten times as much.
FROM build AS build-cpu
RUN /opt/polyseme/bin/pip uninstall --yes onnxruntime-gpu \
 && /opt/polyseme/bin/pip install 'onnxruntime>=1.22'

FROM python:3.11-slim-bookworm AS cpu
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/polyseme polyseme
COPY --from=build-cpu /opt/polyseme /opt/polyseme
COPY models/polyseme-nano /models/default
ENV PATH=/opt/polyseme/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    POLYSEME_MODEL=/models/default \
    POLYSEME_DATA=/var/lib/polyseme/data \
    POLYSEME_ADDRESS=0.0.0.0:50051 \
    POLYSEME_HTTP_ADDRESS=0.0.0.0:9090
USER polyseme
VOLUME /var/lib/polyseme
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["polyseme-server", "healthcheck", "--address", "127.0.0.1:50051"]
ENTRYPOINT ["polyseme-server"]
CMD ["serve"]

FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS gpu
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --home-dir /var/lib/polyseme polyseme \
 && python3 -m venv /opt/polyseme
COPY --from=build /src /src
RUN /opt/polyseme/bin/pip install --no-cache-dir /src/clients/python /src && rm -rf /src
COPY --from=model-gpu /models /models
ENV PATH=/opt/polyseme/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    POLYSEME_MODEL=/models/default \
    POLYSEME_DATA=/var/lib/polyseme/data \
    POLYSEME_ADDRESS=0.0.0.0:50051 \
    POLYSEME_HTTP_ADDRESS=0.0.0.0:9090 \
    POLYSEME_DEVICE=cuda \
    POLYSEME_PRECISION=fp16 \
    POLYSEME_BATCH_TOKENS_MAX=65536
USER polyseme
VOLUME /var/lib/polyseme
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["polyseme-server", "healthcheck", "--address", "127.0.0.1:50051"]
ENTRYPOINT ["polyseme-server"]
CMD ["serve"]

# The last stage is what `docker build .` makes.
FROM cpu
