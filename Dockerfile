# API, worker and reconciler are one image; CUDA comes with torch's wheels and needs only the host's driver.
FROM python:3.12-slim AS build
COPY --from=ghcr.io/astral-sh/uv:0.13.8 /uv /usr/local/bin/uv
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /srv/lirf
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/uv uv sync --locked --no-dev --no-install-project
COPY app app
COPY worker worker
COPY lirf_core lirf_core
COPY lirf_client lirf_client
COPY migrations migrations
RUN --mount=type=cache,target=/root/.cache/uv uv sync --locked --no-dev --no-editable

FROM python:3.12-slim
RUN groupadd --gid 10001 lirf && useradd --uid 10001 --gid lirf --no-create-home lirf \
    && install -d -o lirf -g lirf -m 0700 /var/lib/lirf
COPY --from=build /srv/lirf/.venv /srv/lirf/.venv
ENV PATH=/srv/lirf/.venv/bin:$PATH \
    LIRF_STATE_FOLDER=/var/lib/lirf \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER lirf
WORKDIR /var/lib/lirf
VOLUME /var/lib/lirf
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
CMD ["lirf", "serve", "--host", "0.0.0.0"]
