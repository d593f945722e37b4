# One registered version that segments by itself: a BIDS App. Build it with `make package`, which writes the code and the
# model to .local/staged-package; the context is the repository's root.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS builder
# Package indexes other than pip's default. They stay in this stage.
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv
# Wheels from disk. The [l] makes the path a pattern, so that the folder may be absent.
COPY requirements.txt requirements.lock images/requirements-torch.txt .loca[l]/staged-wheels/*.whl /wheels/
COPY .local/staged-package/requirements.txt /tmp/requirements.txt
# What this version imports, each file by its hash.
RUN awk -F '==' 'FNR == NR { wanted[$1]; next } /^[a-z]/ { keep = $1 in wanted } keep' \
        /tmp/requirements.txt /wheels/requirements.lock > /tmp/requirements.lock \
    && pip install --require-hashes --no-deps --only-binary :all: --requirement /tmp/requirements.lock
# The address of PyTorch's CPU wheel index, for a build of torch without CUDA. highdicom names pyjpegls and never imports
# it, so its absence, and no other, is no fault.
ARG TORCH_INDEX=
RUN cd /wheels && pip install --find-links . ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    --constraint requirements.txt --constraint requirements-torch.txt "$(grep '^torch==' requirements.txt)" \
    && test "$(pip check | tee /dev/stderr | cut -d ' ' -f 1,3-)" = "highdicom requires pyjpegls, which is not installed." \
    && pip uninstall --yes pip
# Remove what nothing imports: C++ headers and compilers of PyTorch, and the packages' own tests.
RUN cd /opt/venv/lib/python3.11/site-packages && rm -rf torch/include torch/test \
    && find . -type f -path './torch/bin/*' ! -name torch_shm_manager -delete \
    && find . -type d -name tests -regex '\./\(scipy\|sympy\)/.*' -prune -exec rm -rf {} + \
    && echo /app > app.pth

FROM ${BASE} AS code
COPY .local/staged-package/code /app
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /app
COPY .local/staged-package/package /app/package
RUN chmod -R a+rX /app

FROM ${BASE}
# No program runs with the rights of another user (set-uid), and there is no Perl, no pip and no package manager. The
# shell stays: Apptainer starts the image through it.
RUN groupadd --gid 10001 dwi && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home dwi \
    && find / -xdev -type f -perm /6000 -delete \
    && rm -rf /usr/local/lib/python3.*/site-packages/pip* /usr/local/bin/pip* \
    && cd /usr/bin && rm -f apt* dpkg* perl*
COPY --from=builder /opt/venv /opt/venv
# The file system may be read-only; only the results are written, and /tmp.
ENV PATH=/opt/venv/bin:$PATH PYTHONUTF8=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    USER=dwi HOME=/tmp TMPDIR=/tmp MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /tmp
COPY --from=code /app /app
ARG REVISION=unknown
ARG VERSION=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="dwi-stroke segment" \
      org.opencontainers.image.description="Stroke lesions on diffusion MRI. Research use only. Not a medical device." \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
# -P: a folder of the person who calls is no place for modules.
ENTRYPOINT ["python3", "-P", "-m", "pipelines.predict.bids_app"]
