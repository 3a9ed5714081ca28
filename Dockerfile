# Build:   docker build -t robust .
# Use:     docker run --rm -v "$PWD:/work" robust fit --config digits/at
# With GPUs and their processes that load images, add: --gpus all --ipc host
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# Torch's wheels by default run on CPUs and on NVIDIA GPUs. Another index of wheels, such as PyTorch's own of those for
# CPUs alone, which are smaller by gigabytes, is given by --build-arg TORCH_INDEX=<its address>.
ARG TORCH_INDEX=
ARG EXTRAS=zoo,hf,data,tensorboard
WORKDIR /src
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "torch>=2.10" torchvision ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY lightning_robust lightning_robust
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[${EXTRAS}]"

# Files in a mounted folder belong to user 1000; `docker run --user "$(id -u)"` takes another.
RUN useradd --create-home --uid 1000 robust && install --directory --owner robust --mode 1777 /work
ENV MPLCONFIGDIR=/tmp/matplotlib
USER 1000
WORKDIR /work
ENTRYPOINT ["lightning-robust"]
CMD ["--help"]
