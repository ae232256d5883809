FROM base
COPY a.txt /a.txt
COPY a.txt b.txt /both/
COPY dir /dir
COPY dir/ /dir2/
COPY *.txt /wild/
COPY dir/*.c /c/
COPY --chown=someone:group a.txt /owned
COPY --chown=7:8 a.txt /owned2
COPY --chmod=755 a.txt /mode
COPY --chmod=u+x a.txt /modestr
COPY --link a.txt /linked
RUN after-link
COPY link-to-dir /through
COPY link.txt /link.txt
ADD a.txt /added
COPY --exclude=*.c dir /excluded
COPY --parents dir/sub/deep /parents/
WORKDIR /w
COPY a.txt .
COPY <<EOF /heredoc
text
EOF
RUN after
COPY . /all
