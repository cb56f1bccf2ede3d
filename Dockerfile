# docker build -t tlg . && docker run --rm -p 8888:8888 -v "$PWD/runs:/tlg/runs" tlg
# For processors alone; for GPUs begin FROM an image of PyTorch with CUDA and leave the `uv` line's backend out.
FROM python:3.12-slim
WORKDIR /opt/tlg
COPY . .
RUN pip install --no-cache-dir uv \
 && uv pip install --system --no-cache --torch-backend=cpu -c constraints.txt '.[notebooks]'
RUN useradd --create-home reader && mkdir -p /tlg/runs && chown -R reader /tlg
USER reader
WORKDIR /tlg
ENV TLG_HOME=/tlg
RUN tlg notebooks notebooks && tlg doctor
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "notebooks"]
