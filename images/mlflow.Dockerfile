# The MLflow server, with S3 and PostgreSQL drivers. Build it with `make images`; the context is the repository's root.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS builder
# Package indexes other than pip's default. They stay in this stage.
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv
COPY images/requirements-mlflow.lock /tmp/requirements.lock
RUN pip install --require-hashes --no-deps --only-binary :all: --requirement /tmp/requirements.lock \
    && pip check \
    && pip uninstall --yes setuptools pip

FROM ${BASE}
# No program runs with the rights of another user (set-uid), and there is no shell, no Perl, no pip and no package
# manager: python3 and mlflow start without them.
RUN groupadd --gid 10001 mlflow && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home mlflow \
    && find / -xdev -type f -perm /6000 -delete \
    && rm -rf /usr/local/lib/python3.*/site-packages/pip* /usr/local/bin/pip* \
    && cd /usr/bin && rm -f apt* dpkg* perl* bash rbash dash sh
COPY --from=builder /opt/venv /opt/venv
# The login: mlflow server --app-name dwi-stroke.
COPY images/mlflow /opt/dwi-stroke
# The file system may be read-only; the server writes to /tmp only.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/dwi-stroke PYTHONUTF8=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    USER=mlflow HOME=/tmp TMPDIR=/tmp MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /tmp
ARG REVISION=unknown
ARG VERSION=unknown
ARG SOURCE=
ENV GIT_COMMIT=$REVISION
LABEL org.opencontainers.image.title="dwi-stroke mlflow" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
EXPOSE 5000
