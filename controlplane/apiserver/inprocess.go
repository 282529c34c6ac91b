// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// inProcess is a transport that calls the server's handler instead of a socket: no TLS, no TCP, no HTTP framing.
// Authentication, authorization, audit and fairness run as for any client, since they are part of the handler.
type inProcess struct {
	// handler is set before assembled is closed.
	handler   http.Handler
	assembled chan struct{}
}

func newInProcess() *inProcess { return &inProcess{assembled: make(chan struct{})} }

// serve lets requests through. Parts of the server hold clients before that; their requests wait.
func (t *inProcess) serve(h http.Handler) {
	t.handler = h
	close(t.assembled)
}

// RoundTrip returns when the handler wrote its header. The body is streamed: a watch's events arrive as they are
// written, and closing the body ends the request's context.
func (t *inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	select {
	case <-t.assembled:
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	ctx, cancel := context.WithCancel(req.Context())
	w := newStreamWriter(ctx, req)
	go func() {
		defer cancel()
		defer w.finish()
		t.handler.ServeHTTP(w, serverRequest(ctx, req))
	}()
	select {
	case <-w.started:
		w.response.Body = &cancelingBody{stream: w.stream, cancel: cancel}
		return w.response, nil
	case <-req.Context().Done():
		cancel()
		return nil, context.Cause(req.Context())
	}
}

// serverRequest makes the request that a server would have read from the wire.
func serverRequest(ctx context.Context, req *http.Request) *http.Request {
	r := req.Clone(ctx)
	r.RequestURI = req.URL.RequestURI()
	r.RemoteAddr = "127.0.0.1:0"
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	if r.Host == "" {
		r.Host = req.URL.Host
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	return r
}

// streamWriter is the handler's side of a response.
type streamWriter struct {
	ctx      context.Context
	header   http.Header
	started  chan struct{}
	once     sync.Once
	response *http.Response
	stream   *stream
}

func newStreamWriter(ctx context.Context, req *http.Request) *streamWriter {
	return &streamWriter{
		ctx:     ctx,
		header:  http.Header{},
		started: make(chan struct{}),
		stream:  newStream(),
		response: &http.Response{
			Proto: "HTTP/2.0", ProtoMajor: 2, ContentLength: -1, Request: req,
		},
	}
}

func (w *streamWriter) Header() http.Header { return w.header }

func (w *streamWriter) WriteHeader(code int) {
	if code < http.StatusOK {
		return // informational answers have no reader here
	}
	w.once.Do(func() {
		w.response.StatusCode = code
		w.response.Status = fmt.Sprintf("%d %s", code, http.StatusText(code))
		w.response.Header = w.header.Clone()
		close(w.started)
	})
}

func (w *streamWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.stream.write(w.ctx, p)
}

// Flush makes the header visible; what was written is at once.
func (w *streamWriter) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify is asked for by the library to tell HTTP/2 writers from others.
func (w *streamWriter) CloseNotify() <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(w.ctx, func() { gone <- true })
	return gone
}

// finish ends the body. A handler that panics leaves the reader with an error, as a broken connection would;
// the library's own handler has logged the panic by then.
func (w *streamWriter) finish() {
	if p := recover(); p != nil {
		w.WriteHeader(http.StatusInternalServerError)
		w.stream.close(io.ErrUnexpectedEOF)
		return
	}
	w.WriteHeader(http.StatusOK)
	w.stream.close(io.EOF)
}

// cancelingBody ends the handler's work when the client is done with the answer.
type cancelingBody struct {
	*stream
	cancel context.CancelFunc
}

func (b *cancelingBody) Close() error {
	b.cancel()
	b.stream.close(io.ErrClosedPipe)
	return nil
}

// streamLimit is how much a writer may be ahead of its reader; after that it waits, as it would on a full socket.
const streamLimit = 256 << 10

// stream is a bounded byte queue between handler and client.
type stream struct {
	mu sync.Mutex
	// changed uses mu and is broadcast whenever one of the fields below changes; mu guards them.
	changed *sync.Cond
	data    []byte
	err     error
}

func newStream() *stream {
	s := &stream{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *stream) write(ctx context.Context, p []byte) (int, error) {
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.data) >= streamLimit && s.err == nil && ctx.Err() == nil {
		s.changed.Wait()
	}
	if s.err != nil {
		return 0, s.err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.data = append(s.data, p...)
	s.changed.Broadcast()
	return len(p), nil
}

func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.data) == 0 && s.err == nil {
		s.changed.Wait()
	}
	if len(s.data) == 0 {
		return 0, s.err
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	if len(s.data) == 0 {
		s.data = nil // an idle watch holds no buffer
	}
	s.changed.Broadcast()
	return n, nil
}

// close ends the stream; the first reason counts, and what was written before can still be read.
func (s *stream) close(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.changed.Broadcast()
}
