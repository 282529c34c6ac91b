// SPDX-License-Identifier: Apache-2.0

// Package forward carries TCP connections from a listener to an address. The listener may have been made in another
// network namespace than the one this process dials in, which is how the host reaches a local cluster.
package forward

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

const dialTimeout = 5 * time.Second

// Run accepts connections on l and joins each with a new one to the address, until the context ends. It closes l.
func Run(ctx context.Context, l net.Listener, to string, logger *slog.Logger) error {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // out of descriptors, or the peer went away: the next one may work
			logger.Warn("accept", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		all.Go(func() {
			if err := join(ctx, conn.(*net.TCPConn), to); err != nil {
				logger.Debug("forward", "to", to, "err", err)
			}
		})
	}
}

// join dials and copies both ways until both have ended. An end of one direction is passed on as such, so a client
// that only closes its sending half still gets its answer.
func join(ctx context.Context, client *net.TCPConn, to string) error {
	defer client.Close()
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", to)
	if err != nil {
		_ = client.SetLinger(0) // a reset tells the client at once that nobody is there
		return err
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	both.Wait()
	return nil
}

func pipe(dst, src *net.TCPConn) {
	_, err := io.Copy(dst, src)
	if err != nil { // broken: the other direction has no use any more
		dst.Close()
		src.Close()
		return
	}
	_ = dst.CloseWrite() // already closed is fine
}
