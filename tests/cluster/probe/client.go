// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Tally counts the answers of a server by the name that it gave.
type Tally struct {
	OK     int            `json:"ok"`
	Failed int            `json:"failed"`
	By     map[string]int `json:"by"`
	// Error is the first failure, for the person who reads the log.
	Error string `json:"error,omitempty"`
}

// get sends a bounded number of requests, each on a connection of its own.
func get(args []string) (any, error) {
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	count := flags.Int("n", 1, "requests")
	workers := flags.Int("c", 8, "at once")
	timeout := flags.Duration("timeout", 2*time.Second, "for one request")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	url := flags.Arg(0)
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	tally := Tally{By: map[string]int{}}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		next atomic.Int64
	)
	for range *workers {
		wg.Go(func() {
			for next.Add(1) <= int64(*count) {
				name, err := fetch(client, url)
				mu.Lock()
				tally.add(name, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return tally, nil
}

func (t *Tally) add(name string, err error) {
	if err == nil {
		t.OK++
		t.By[name]++
		return
	}
	t.Failed++
	if t.Error == "" {
		t.Error = err.Error()
	}
}

func fetch(client *http.Client, url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", response.Status)
	}
	return strings.TrimSpace(string(body)), nil
}

// Sighting says when something last worked, in Unix nanoseconds, and how often it did and did not.
type Sighting struct {
	Count  int   `json:"count"`
	Failed int   `json:"failed"`
	Last   int64 `json:"last"`
	// Gap is the longest time between two successes, in nanoseconds.
	Gap   int64  `json:"gap"`
	Error string `json:"error,omitempty"`
}

func (s *Sighting) saw(err error) {
	now := time.Now().UnixNano()
	if err != nil {
		s.Failed++
		if s.Error == "" {
			s.Error = err.Error()
		}
		return
	}
	if s.Last != 0 {
		s.Gap = max(s.Gap, now-s.Last)
	}
	s.Count++
	s.Last = now
}

// Watched is what watch reports: new connections, and one connection that was there before. Clock tried nothing: its gap
// says how long the machine kept this process waiting. Retransmits counts TCP segments that this pod sent again.
type Watched struct {
	New         Sighting `json:"new"`
	Established Sighting `json:"established"`
	Clock       Sighting `json:"clock"`
	Retransmits int      `json:"retransmits"`
}

// watch tries a new connection and a message on an established one, over and over, for a bounded time.
func watch(args []string) (any, error) {
	flags := flag.NewFlagSet("watch", flag.ContinueOnError)
	length := flags.Duration("for", 3*time.Second, "how long")
	every := flags.Duration("every", time.Millisecond, "pause between tries")
	timeout := flags.Duration("timeout", 300*time.Millisecond, "for one try")
	ready := flags.String("ready", "", "address to listen on once there is a connection")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	address := flags.Arg(0)
	ctx, cancel := context.WithTimeout(context.Background(), *length)
	defer cancel()
	var (
		result Watched
		wg     sync.WaitGroup
	)
	established, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		return nil, err
	}
	defer established.Close()
	if *ready != "" {
		listener, err := net.Listen("tcp", *ready)
		if err != nil {
			return nil, err
		}
		defer listener.Close()
	}
	before, err := retransmits()
	if err != nil {
		return nil, err
	}
	wg.Go(func() { repeat(ctx, *every, &result.Clock, func() error { return nil }) })
	wg.Go(func() {
		repeat(ctx, *every, &result.Established, func() error { return echoOnce(established, *timeout) })
	})
	wg.Go(func() {
		repeat(ctx, *every, &result.New, func() error {
			conn, err := net.DialTimeout("tcp", address, *timeout)
			if err != nil {
				return err
			}
			defer conn.Close()
			return echoOnce(conn, *timeout)
		})
	})
	wg.Wait()
	after, err := retransmits()
	result.Retransmits = after - before
	return result, err
}

// First is what first reports: how long the connection took, in nanoseconds, and how many segments this pod has sent again.
type First struct {
	Took        int64 `json:"took"`
	Retransmits int   `json:"retransmits"`
}

// first connects once, as the first thing that the pod does: a first packet that is lost shows as one that is sent again.
func first(args []string) (any, error) {
	if len(args) != 1 {
		return nil, errors.New("one address")
	}
	began := time.Now()
	conn, err := net.DialTimeout("tcp", args[0], 10*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := echoOnce(conn, 10*time.Second); err != nil {
		return nil, err
	}
	took := time.Since(began)
	again, err := retransmits()
	return First{Took: took.Nanoseconds(), Retransmits: again}, err
}

// retransmits reads the counter of this network namespace.
func retransmits() (int, error) {
	raw, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, "RetransSegs"); i >= 0 {
			return strconv.Atoi(fields[i])
		}
	}
	return 0, errors.New("/proc/net/snmp has no RetransSegs")
}

func repeat(ctx context.Context, every time.Duration, seen *Sighting, try func() error) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for ctx.Err() == nil {
		seen.saw(try())
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// echoOnce sends a line that names the moment and reads lines until that one comes back. Answers to earlier tries that
// timed out are passed over, so a connection that was blocked for a while can be seen to work again.
func echoOnce(conn net.Conn, timeout time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	line := fmt.Sprintf("%d\n", time.Now().UnixNano())
	if _, err := io.WriteString(conn, line); err != nil {
		return err
	}
	for reader := bufio.NewReader(conn); ; {
		got, err := reader.ReadString('\n')
		if err != nil {
			return err
		}
		if got == line {
			return nil
		}
	}
}

// connect makes short connections one after another for a bounded time and reports how many a second.
func connect(args []string) (any, error) {
	flags := flag.NewFlagSet("connect", flag.ContinueOnError)
	length := flags.Duration("for", 2*time.Second, "how long")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	var made, failed int
	start := time.Now()
	for time.Since(start) < *length {
		conn, err := net.DialTimeout("tcp", flags.Arg(0), time.Second)
		if err != nil {
			failed++
			continue
		}
		made++
		// A reset leaves no TIME_WAIT behind, so the rate is not bounded by the ports of one address.
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	return map[string]float64{"perSecond": float64(made) / time.Since(start).Seconds(), "failed": float64(failed)}, nil
}

// stream pushes bytes for a bounded time and reports the rate in bit/s.
func stream(args []string) (any, error) {
	flags := flag.NewFlagSet("stream", flag.ContinueOnError)
	length := flags.Duration("for", 2*time.Second, "how long")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout("tcp", flags.Arg(0), 2*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	buffer := make([]byte, 256<<10)
	start := time.Now()
	var sent int64
	for time.Since(start) < *length {
		n, err := conn.Write(buffer)
		if err != nil {
			return nil, err
		}
		sent += int64(n)
	}
	return map[string]float64{"bitsPerSecond": 8 * float64(sent) / time.Since(start).Seconds()}, nil
}

// latency measures request and response on one connection and reports microseconds.
func latency(args []string) (any, error) {
	flags := flag.NewFlagSet("latency", flag.ContinueOnError)
	count := flags.Int("n", 5000, "round trips")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout("tcp", flags.Arg(0), 2*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	times := make([]time.Duration, 0, *count)
	for range *count {
		start := time.Now()
		if err := echoOnce(conn, time.Second); err != nil {
			return nil, err
		}
		times = append(times, time.Since(start))
	}
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	micro := func(q float64) float64 {
		return float64(times[int(q*float64(len(times)-1))].Nanoseconds()) / 1e3
	}
	return map[string]float64{"p50": micro(0.5), "p99": micro(0.99)}, nil
}

// lookup resolves a name.
func lookup(args []string) (any, error) {
	if len(args) != 1 {
		return nil, errors.New("one name")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, args[0])
	if err != nil {
		return nil, err
	}
	sort.Strings(addrs)
	return addrs, nil
}

// names resolves a name over and over for a bounded time. The time for one try is less than a resolver takes before it asks
// again, so a single query without an answer is a failure.
func names(args []string) (any, error) {
	flags := flag.NewFlagSet("names", flag.ContinueOnError)
	length := flags.Duration("for", 3*time.Second, "how long")
	every := flags.Duration("every", 5*time.Millisecond, "pause between tries")
	timeout := flags.Duration("timeout", 3*time.Second, "for one try, less than 5s")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), *length)
	defer cancel()
	var seen Sighting
	repeat(ctx, *every, &seen, func() error {
		try, cancel := context.WithTimeout(context.Background(), *timeout)
		defer cancel()
		_, err := net.DefaultResolver.LookupHost(try, flags.Arg(0))
		return err
	})
	return seen, nil
}

// udp sends datagrams one by one, each from a socket of its own, and counts the answers by name.
func udp(args []string) (any, error) {
	flags := flag.NewFlagSet("udp", flag.ContinueOnError)
	count := flags.Int("n", 10, "datagrams")
	timeout := flags.Duration("timeout", time.Second, "for one answer")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	tally := Tally{By: map[string]int{}}
	for range *count {
		tally.add(askUDP(flags.Arg(0), *timeout))
	}
	return tally, nil
}

func askUDP(address string, timeout time.Duration) (string, error) {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "who"); err != nil {
		return "", err
	}
	buffer := make([]byte, 256)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}
