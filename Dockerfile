# Raymill in a container: `docker build --target cpu .` and `docker build --target gpu .` (docs/deploying.md).
#
# Packages come from the constraints that `make setup` installs, by the same commands. Base images are arguments: give your
# mirror's names, or digests. Nothing secret is read or kept; state lies in the volume, keys are made at the first start.

ARG PYTHON_VERSION=3.11.14
ARG CPU_BASE=python:${PYTHON_VERSION}-slim-bookworm
ARG GPU_BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04

# g++ stays in the images: DeepSpeed, torch and Triton compile for the machine they find. KubeRay may start Ray in a login
# shell, which forgets PATH.
FROM ${CPU_BASE} AS cpu-base
RUN apt-get update -qq \
    && apt-get install -qq -y --no-install-recommends g++ libgomp1 libnuma1 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group --create-home raymill \
    && install -d -o 1000 -g 1000 /var/lib/raymill \
    && echo 'export PATH=/opt/raymill/.venv/bin:$PATH' >/etc/profile.d/raymill.sh
ENV PATH=/opt/raymill/.venv/bin:$PATH RAYMILL_HOME=/var/lib/raymill PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/raymill

# The Python of the other image: nodes of one cluster must have the same.
FROM ${GPU_BASE} AS gpu-base
ARG PYTHON_VERSION
ENV UV_PYTHON_INSTALL_DIR=/opt/python
RUN apt-get update -qq \
    && apt-get install -qq -y --no-install-recommends g++ libgomp1 libnuma1 python3-venv tini \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet uv==0.13.8 \
    && /opt/uv/bin/uv python install --quiet ${PYTHON_VERSION} \
    && (userdel --remove ubuntu 2>/dev/null || true) \
    && useradd --uid 1000 --user-group --create-home raymill \
    && install -d -o 1000 -g 1000 /var/lib/raymill \
    && echo 'export PATH=/opt/raymill/.venv/bin:$PATH' >/etc/profile.d/raymill.sh
ENV PATH=/opt/raymill/.venv/bin:$PATH RAYMILL_HOME=/var/lib/raymill PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/raymill

# Packages first: they are most of the time, and our own files change more often.
FROM cpu-base AS cpu-build
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends git make
COPY Makefile pyproject.toml ./
COPY constraints constraints
RUN make packages DEVICE=cpu PORTABLE=1
COPY . .
RUN make setup DEVICE=cpu PORTABLE=1

# No GPU is there while it is built; the index's own torch is the one for CUDA.
FROM gpu-base AS gpu-build
ARG PYTHON_VERSION
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends git make
COPY Makefile pyproject.toml ./
COPY constraints constraints
RUN make packages DEVICE=gpu PORTABLE=1 TORCH_BACKEND= PYTHON="$(/opt/uv/bin/uv python find ${PYTHON_VERSION})"
COPY . .
RUN make setup DEVICE=gpu PORTABLE=1 TORCH_BACKEND=

FROM gpu-base AS gpu
COPY --from=gpu-build /opt/raymill /opt/raymill
USER 1000:1000
VOLUME /var/lib/raymill
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=8)"]
ENTRYPOINT ["tini", "-g", "--"]
CMD ["python", "-m", "raymill.cluster.supervisor"]

FROM cpu-base AS cpu
COPY --from=cpu-build /opt/raymill /opt/raymill
USER 1000:1000
VOLUME /var/lib/raymill
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=8)"]
ENTRYPOINT ["tini", "-g", "--"]
CMD ["python", "-m", "raymill.cluster.supervisor"]
