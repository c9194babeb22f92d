# An image of `tolbooth serve`: docker build -t tolbooth .
#
# BASE_IMAGE is any image with Python 3.11 or newer and its pip. Where it brings a torch that pyproject.toml admits, that one is
# used; else the pinned one is installed. Packages come from the index that pip is configured for: --secret id=pip.conf,src=FILE
# names a configuration for the build alone, which leaves no trace in the image.
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime

# The first stage makes an environment, the second takes it over: what only building needs stays behind.
FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY pyproject.toml constraints.txt deploy/image/requirements.py ./
# Without pip: the base image's own installs into both environments, and the final one gets none.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf,mode=0444 \
    python3 -m venv --without-pip --system-site-packages /build/tools \
    && python3 -m venv --without-pip --system-site-packages /opt/tolbooth \
    && /build/tools/bin/python -m pip install --constraint constraints.txt hatchling \
    && /build/tools/bin/python requirements.py pyproject.toml constraints.txt /build \
    && /opt/tolbooth/bin/python -m pip install --constraint /build/image-constraints.txt --requirement /build/image-requirements.txt
COPY README.md LICENSE .gitignore ./
COPY paging paging
COPY models models
COPY server server
RUN /build/tools/bin/python -m hatchling build -t wheel -d /build/dist \
    && /opt/tolbooth/bin/python -m pip install --no-deps --no-index /build/dist/*.whl \
    && /opt/tolbooth/bin/tolbooth --version

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Tolbooth" \
      org.opencontainers.image.description="Inference server for MemoryLLM: feed-forward memory paged from NVMe, one row per token" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.documentation="docs/operating.md"
# A fixed number, so that volumes can be given to it; no shell, no home. What is written goes to the three volumes and /tmp.
RUN echo 'tolbooth:x:10001:10001:Tolbooth:/nonexistent:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'tolbooth:x:10001:' >> /etc/group \
    && mkdir -p /models /tables /cache \
    && chown 10001:10001 /models /tables /cache
COPY deploy/image/healthcheck.py /opt/healthcheck.py
COPY --from=build /opt/tolbooth /opt/tolbooth
# TOLBOOTH_HOST, not a flag in CMD: the server is reached from outside whatever command replaces CMD.
ENV PATH=/opt/tolbooth/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/cache \
    XDG_DATA_HOME=/cache/data \
    TOLBOOTH_HOST=0.0.0.0
VOLUME ["/models", "/tables", "/cache"]
WORKDIR /models
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Loading a large model takes minutes; until it is done /health says 503.
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 CMD ["python3", "-I", "/opt/healthcheck.py"]
# The kernel drops signals to a process 1 without a handler, and Python takes seconds to have one; and somebody must reap orphans.
# One child only: the engine must not get the signal, it has requests to end.
ENTRYPOINT ["dumb-init", "--single-child", "--", "tolbooth"]
CMD ["serve"]
