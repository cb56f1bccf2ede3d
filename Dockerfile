# docker build -t tlg . && docker run --rm -p 8888:8888 -v "$PWD/runs:/tlg/runs" tlg
# For GPUs: docker build --build-arg BACKEND=cu126 -t tlg . && docker run --rm --gpus all -p 8888:8888 ... tlg
# (PyTorch's packages bring their CUDA libraries; the host needs NVIDIA's driver and container toolkit.)
FROM python:3.12-slim
ARG BACKEND=cpu
WORKDIR /opt/tlg
COPY . .
RUN pip install --no-cache-dir uv \
 && uv pip install --system --no-cache --torch-backend=$BACKEND -c constraints.txt '.[notebooks]'
RUN useradd --create-home reader && mkdir -p /tlg/runs && chown -R reader /tlg
USER reader
WORKDIR /tlg
ENV TLG_HOME=/tlg
RUN tlg notebooks notebooks && tlg doctor
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "notebooks"]
