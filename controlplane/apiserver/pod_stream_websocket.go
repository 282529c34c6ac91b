// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	//lint:ignore SA1019 client-go still takes its types
	"k8s.io/apimachinery/pkg/util/httpstream"
	constants "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

const (
	streamIdle     = 4 * time.Hour
	streamPing     = 5 * time.Second
	statusDeadline = 10 * time.Second
)

// errNodeLost ends a command whose node hung up without saying how the command ended.
var errNodeLost = errors.New("the connection to the node was lost before the command ended")

// webSocketTranslator runs exec and attach for clients that speak WebSocket, on a node that speaks SPDY. It differs from the
// library's in one point: a node that goes away without a status is an error to the client, and not a success without output.
type webSocketTranslator struct {
	streams   streams
	location  *url.URL
	transport http.RoundTripper
}

func (t *webSocketTranslator) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	client, err := t.accept(w, req)
	if err != nil {
		return // the library has answered
	}
	defer client.conn.Close()
	client.finish(t.run(req.Context(), client))
}

// run streams between the client and the node until the command has ended.
func (t *webSocketTranslator) run(ctx context.Context, client *webSocketClient) error {
	tripper, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{UpgradeTransport: t.transport, PingPeriod: streamPing})
	if err != nil {
		return err
	}
	upgrader := statusRequired{clientspdy.NewUpgraderForStreaming(tripper)}
	executor, err := remotecommand.NewSPDYExecutorRejectRedirects(tripper, upgrader, http.MethodPost, t.location)
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Tty: t.streams.tty}
	if t.streams.stdin {
		options.Stdin = client.channels[constants.StreamStdIn]
	}
	if t.streams.stdout {
		options.Stdout = client.channels[constants.StreamStdOut]
	}
	if t.streams.stderr {
		options.Stderr = client.channels[constants.StreamStdErr]
	}
	if t.streams.tty {
		options.TerminalSizeQueue = newTerminalSizes(ctx, client.channels[constants.StreamResize])
	}
	return executor.StreamWithContext(ctx, options)
}

// webSocketClient is the client's side: one channel per stream, numbered as the protocol says.
type webSocketClient struct {
	conn     *wsstream.Conn
	channels []io.ReadWriteCloser
}

func (t *webSocketTranslator) accept(w http.ResponseWriter, req *http.Request) (*webSocketClient, error) {
	use := func(wanted bool, kind wsstream.ChannelType) wsstream.ChannelType {
		if wanted {
			return kind
		}
		return wsstream.IgnoreChannel
	}
	channels := make([]wsstream.ChannelType, 5)
	channels[constants.StreamStdIn] = use(t.streams.stdin, wsstream.ReadChannel)
	channels[constants.StreamStdOut] = use(t.streams.stdout, wsstream.WriteChannel)
	channels[constants.StreamStdErr] = use(t.streams.stderr, wsstream.WriteChannel)
	channels[constants.StreamErr] = wsstream.WriteChannel
	channels[constants.StreamResize] = wsstream.ReadChannel
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		constants.StreamProtocolV5Name: {Binary: true, Channels: channels},
	})
	conn.SetIdleTimeout(streamIdle)
	_, opened, err := conn.Open(w, req)
	if err != nil {
		return nil, err
	}
	c := &webSocketClient{conn: conn, channels: opened}
	greeting := constants.StreamErr
	switch {
	case t.streams.stdout:
		greeting = constants.StreamStdOut
	case t.streams.stderr:
		greeting = constants.StreamStdErr
	}
	// An empty message tells the client that its streams are open.
	if _, err := opened[greeting].Write(nil); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// finish tells the client how the command ended.
func (c *webSocketClient) finish(err error) {
	data, err := json.Marshal(commandStatus(err))
	if err != nil {
		return
	}
	c.conn.SetWriteDeadline(statusDeadline)
	_, _ = c.channels[constants.StreamErr].Write(data) // a client that is gone needs no status
}

func commandStatus(err error) metav1.Status {
	var status *apierrors.StatusError
	var exit exec.CodeExitError
	switch {
	case err == nil:
		return metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &status):
		return status.Status()
	case errors.As(err, &exit):
		return metav1.Status{
			Status: metav1.StatusFailure, Reason: constants.NonZeroExitCodeReason,
			Message: "command terminated with non-zero exit code: " + exit.Error(),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: constants.ExitCodeCauseType, Message: strconv.Itoa(exit.ExitStatus())}}},
		}
	case errors.Is(err, errNodeLost):
		return apierrors.NewInternalError(errNodeLost).Status()
	default:
		return apierrors.NewInternalError(err).Status()
	}
}

// statusRequired makes connections whose error stream must carry a status, as every protocol since v4 says.
type statusRequired struct{ clientspdy.Upgrader }

func (u statusRequired) NewConnection(resp *http.Response) (httpstream.Connection, error) {
	conn, err := u.Upgrader.NewConnection(resp)
	if err != nil {
		return nil, err
	}
	return statusConnection{conn}, nil
}

type statusConnection struct{ httpstream.Connection }

func (c statusConnection) CreateStream(headers http.Header) (httpstream.Stream, error) {
	stream, err := c.Connection.CreateStream(headers)
	if err != nil || headers.Get(corev1.StreamType) != corev1.StreamTypeError {
		return stream, err
	}
	return &statusStream{Stream: stream}, nil
}

// statusStream turns an end without content into errNodeLost.
type statusStream struct {
	httpstream.Stream
	any bool
}

func (s *statusStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	s.any = s.any || n > 0
	if err != nil && !s.any {
		return n, errNodeLost
	}
	return n, err
}

// terminalSizes hands on the sizes that a client reports, until it reports no more.
type terminalSizes chan remotecommand.TerminalSize

func newTerminalSizes(ctx context.Context, from io.Reader) terminalSizes {
	sizes := make(terminalSizes)
	go func() {
		defer close(sizes)
		for decoder := json.NewDecoder(from); ; {
			var size remotecommand.TerminalSize
			if decoder.Decode(&size) != nil {
				return
			}
			select {
			case sizes <- size:
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}

// Next implements remotecommand.TerminalSizeQueue.
func (t terminalSizes) Next() *remotecommand.TerminalSize {
	if size, ok := <-t; ok {
		return &size
	}
	return nil
}
