// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

// serve answers HTTP with the pod's name, echoes TCP and UDP, and swallows a stream, until it is told to stop.
func serve(args []string) (any, error) {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	web := flags.String("http", ":8080", "address that answers with the host's name")
	echo := flags.String("echo", ":9000", "address that echoes TCP and UDP")
	sink := flags.String("sink", ":9001", "address that swallows TCP")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	name, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	failed := make(chan error, 4)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, name) })
	server := &http.Server{Addr: *web, Handler: handler}
	go func() { failed <- server.ListenAndServe() }()
	go func() { failed <- acceptTCP(*echo, func(c net.Conn) { _, _ = io.Copy(c, c) }) }()
	go func() { failed <- acceptTCP(*sink, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) }()
	go func() { failed <- echoUDP(*echo, name) }()
	fmt.Printf("%s serves %s\n", name, *web)

	select {
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		if err := server.Shutdown(context.Background()); !errors.Is(err, http.ErrServerClosed) && err != nil {
			return nil, err
		}
		return map[string]string{"stopped": name}, nil
	}
}

func acceptTCP(address string, handle func(net.Conn)) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			handle(conn)
		}()
	}
}

// echoUDP answers each datagram with this host's name.
func echoUDP(address, name string) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	buffer := make([]byte, 2048)
	for {
		_, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo([]byte(name), from); err != nil {
			return err
		}
	}
}
