// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
)

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func run(t *testing.T, to string) net.Addr {
	t.Helper()
	l := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, l, to, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return l.Addr()
}

func TestHalfClosedClientGetsItsAnswer(t *testing.T) {
	server := listen(t)
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		all, _ := io.ReadAll(conn) // ends when the client's half closes
		_, _ = conn.Write([]byte(strings.ToUpper(string(all))))
	}()
	conn, err := net.Dial("tcp", run(t, server.Addr().String()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "HELLO" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRefusedTargetResetsTheClient(t *testing.T) {
	closed := listen(t)
	closed.Close()
	conn, err := net.Dial("tcp", run(t, closed.Addr().String()).String())
	if err != nil {
		return // the reset may come before the connection is looked at
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("read succeeded though nobody answers")
	}
}
