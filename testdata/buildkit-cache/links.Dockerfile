FROM base
COPY --link a.txt /1
COPY --link a.txt /2
RUN x
