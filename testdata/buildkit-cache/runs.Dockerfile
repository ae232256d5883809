FROM base
ENV A=1 B=two
ARG C=3
RUN one
WORKDIR /work
RUN in-work
USER someone
WORKDIR sub
RUN ["/bin/sh", "two"]
SHELL ["/bin/sh", "-e", "-c"]
ENV A=again
RUN shell <&> "quoted" é
USER 12:34
RUN --network=none none
RUN <<EOF
three
four
EOF
WORKDIR /
RUN last
