// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// answer says the pod's name to everybody who connects or sends a datagram to one of some ports, until it is told to stop.
func answer(args []string) (any, error) {
	flags := flag.NewFlagSet("answer", flag.ContinueOnError)
	name := flags.String("name", "", "what to say")
	ports := flags.String("ports", "80,81", "ports, each of TCP and UDP")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	failed := make(chan error, 1)
	for port := range strings.SplitSeq(*ports, ",") {
		go func() { failed <- acceptTCP(":"+port, func(c net.Conn) { _, _ = io.WriteString(c, *name) }) }()
		go func() { failed <- echoUDP(":"+port, *name) }()
	}
	select {
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		return map[string]string{"stopped": *name}, nil
	}
}

// question is one look at many targets at once.
type question struct{ Targets []target }

// target is somebody who answers with a name. Without a name it is a DNS server, and any answer to a question will do.
type target struct {
	Network, Address, Name string
	Timeout                time.Duration
}

// reach reads questions, one a line, and answers each with a line: a 1 for each target that answers, a 0 for each that does not. A
// target that somebody else answers for is an error.
func reach([]string) (any, error) {
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return map[string]string{"ended": "stdin"}, nil
		}
		if err != nil {
			return nil, err
		}
		var asked question
		if err := json.Unmarshal(line, &asked); err != nil {
			return nil, err
		}
		open, err := asked.look()
		if err != nil {
			return nil, err
		}
		fmt.Println(open)
	}
}

func (q question) look() (string, error) {
	open := make([]byte, len(q.Targets))
	faults := make([]error, len(q.Targets))
	var all sync.WaitGroup
	for i, t := range q.Targets {
		all.Go(func() {
			open[i] = '0'
			said, err := t.ask()
			switch {
			case err != nil:
			case t.Name == "" || said == t.Name:
				open[i] = '1'
			default:
				faults[i] = fmt.Errorf("%s %s is answered by %q, not %s", t.Network, t.Address, said, t.Name)
			}
		})
	}
	all.Wait()
	return string(open), errors.Join(faults...)
}

// ask returns what the target says.
func (t target) ask() (string, error) {
	deadline := time.Now().Add(t.Timeout)
	conn, err := net.DialTimeout(t.Network, t.Address, t.Timeout)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if stream, ok := conn.(*net.TCPConn); ok {
		// A reset leaves nothing behind that waits.
		if err := stream.SetLinger(0); err != nil {
			return "", err
		}
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if t.Network == "udp" || t.Name == "" {
		if _, err := conn.Write(query(t.Network)); err != nil {
			return "", err
		}
	}
	buffer := make([]byte, 512)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}

// query asks a DNS server for the addresses of the root, RFC 1035 section 4.1; other servers do not read it.
func query(network string) []byte {
	const id, recursion, in, a = 0x5eeb, 1 << 8, 1, 1
	var out []byte
	for _, v := range []uint16{id, recursion, 1, 0, 0, 0} {
		out = binary.BigEndian.AppendUint16(out, v)
	}
	out = append(out, 0)
	out = binary.BigEndian.AppendUint16(out, a)
	out = binary.BigEndian.AppendUint16(out, in)
	if network == "tcp" {
		return append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
	}
	return out
}
