// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// Limit is how long Wait waits.
const Limit = 2 * time.Second

const (
	// silence is how long nothing may come over a stream before it counts as broken.
	silence = 3 * beat
	// Pauses between tries to reach a node double between these.
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
	// loudPause is when a node that cannot be reached is worth a line in the log: agents start at the same time, and one is the first.
	loudPause = time.Second
	// refusedPause is for nodes whose agent does not serve its progress, which takes another version of it.
	refusedPause = time.Minute
	// dialLimit leaves time for a node's second address.
	dialLimit = 3 * time.Second
	// maxLine is far more than a line has.
	maxLine = 4096
)

var (
	errSilent  = errors.New("the stream has fallen silent")
	errRefused = errors.New("the agent does not serve its progress")
)

// Node is a node whose agent is to be followed.
type Node struct {
	Name string
	// Addrs are where its kubelet API is, in the order in which they are tried.
	Addrs []netip.AddrPort
}

func (n Node) equal(o Node) bool { return n.Name == o.Name && slices.Equal(n.Addrs, o.Addrs) }

// Peers follows the agents of other nodes, each by one stream.
type Peers struct {
	tls     *tls.Config
	log     *slog.Logger
	metrics metrics
	wake    chan struct{}

	mu    sync.Mutex // guards what follows
	nodes map[string]Node
	peers map[string]*peer
	// waiting counts those that wait; moved is closed and replaced for them whenever something may have changed.
	waiting int
	moved   chan struct{}
}

// peer is a node that is followed. Peers.mu guards what changes.
type peer struct {
	node Node
	stop context.CancelFunc
	// heard says that the stream works; pods is what it said last.
	heard bool
	pods  string
	// late says that somebody has waited for this node in vain, and it has said nothing new since. It may have died: waiting again would
	// cost each pod the whole limit until the stream is known to be broken.
	late bool
}

// New returns Peers that follow nobody. conf has the client's certificate and the CA; each server must prove that it is the node of
// that name.
func New(conf *tls.Config, logger *slog.Logger) *Peers {
	return &Peers{
		tls: conf, log: logger.With("component", "peer"), metrics: newMetrics(), wake: make(chan struct{}, 1),
		nodes: map[string]Node{}, peers: map[string]*peer{}, moved: make(chan struct{}),
	}
}

// SetNodes says which nodes there are. Those that are not ready should not be among them: nobody should wait for them.
func (p *Peers) SetNodes(nodes []Node) {
	p.mu.Lock()
	p.nodes = make(map[string]Node, len(nodes))
	for _, n := range nodes {
		p.nodes[n.Name] = n
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run follows the nodes until ctx ends.
func (p *Peers) Run(ctx context.Context) {
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		for _, n := range p.adjust(ctx) {
			streams.Go(func() { p.follow(n.ctx, n.peer) })
		}
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
	}
}

// started is a peer that is to be followed from now on.
type started struct {
	ctx  context.Context
	peer *peer
}

// adjust stops the streams that are not wanted any more and returns those to be started.
func (p *Peers) adjust(ctx context.Context) []started {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, n := range p.peers {
		if want, ok := p.nodes[name]; !ok || !want.equal(n.node) {
			n.stop()
			delete(p.peers, name)
		}
	}
	var out []started
	for name, node := range p.nodes {
		if p.peers[name] == nil {
			ctx, stop := context.WithCancel(ctx)
			p.peers[name] = &peer{node: node, stop: stop}
			out = append(out, started{ctx, p.peers[name]})
		}
	}
	return out
}

// announce wakes all that wait; the lock is held.
func (p *Peers) announce() {
	if p.waiting > 0 {
		close(p.moved)
		p.moved = make(chan struct{})
	}
}

// Wait blocks until every node that is followed knows the pods up to a resourceVersion, at most for Limit. Nodes that cannot be reached
// are not waited for, nor those that were waited for in vain before.
func (p *Peers) Wait(ctx context.Context, version string) {
	began := time.Now()
	limit := time.NewTimer(Limit)
	defer limit.Stop()
	p.enter()
	defer p.leave()
	defer func() { p.metrics.waited.Observe(time.Since(began).Seconds()) }()
	for {
		done, moved := p.known(version)
		if done {
			return
		}
		select {
		case <-moved:
		case <-limit.C:
			p.giveUp(version)
			return
		case <-ctx.Done():
			return
		}
	}
}

func (p *Peers) enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting++
	for _, n := range p.peers {
		switch {
		case !n.heard:
			p.metrics.skipped.WithLabelValues(reasonUnreachable).Inc()
		case n.late:
			p.metrics.skipped.WithLabelValues(reasonLate).Inc()
		}
	}
}

func (p *Peers) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
}

// known says whether there is nobody to wait for, and returns what is closed when that may have changed.
func (p *Peers) known(version string) (bool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.behind(version)) == 0, p.moved
}

// behind lists the nodes that have to be waited for; the lock is held.
func (p *Peers) behind(version string) []*peer {
	var out []*peer
	for _, n := range p.peers {
		if n.heard && !n.late && older(n.pods, version) {
			out = append(out, n)
		}
	}
	return out
}

// older says that a node that has come to version have does not know what came with want. A want that is no version is never
// waited for; a have that is none is that of a node which knows nothing yet.
func older(have, want string) bool {
	if _, err := resourceversion.CompareResourceVersion(want, want); err != nil {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(have, want)
	return err != nil || order < 0
}

// giveUp marks those that are still behind as late.
func (p *Peers) giveUp(version string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.behind(version) {
		n.late = true
		p.metrics.timeouts.Inc()
		p.log.Warn("a node did not learn of a new pod in time; not waited for until it says something new", "peer", n.node.Name, "took", Limit)
	}
	p.announce()
}

// follow keeps a stream from a node's agent until ctx ends.
func (p *Peers) follow(ctx context.Context, n *peer) {
	pause, told := firstPause, false
	for {
		err := p.stream(ctx, n, func() {
			pause = firstPause
			if told {
				p.log.Info("the agent of the node is followed again", "peer", n.node.Name)
				told = false
			}
		})
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errRefused) {
			pause = refusedPause
		}
		if !told && pause >= loudPause {
			p.log.Warn("the agent of the node cannot be followed; pods do not wait until that node knows them; will retry", "peer", n.node.Name, "err", err)
			told = true
		}
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// stream reads what a node says until the stream breaks. begun is called after the first line.
func (p *Peers) stream(ctx context.Context, n *peer, begun func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer silent.Stop()
	body, err := p.open(ctx, n.node)
	if err != nil {
		return err
	}
	defer body.Close()
	defer p.lost(n)
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("read progress: %w", err)
		}
		silent.Reset(silence)
		p.heard(n, l)
		if begun != nil {
			begun()
			begun = nil
		}
	}
	if err := lines.Err(); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return io.EOF
}

// open asks at one address after the other.
func (p *Peers) open(ctx context.Context, node Node) (io.ReadCloser, error) {
	conf := p.tls.Clone()
	conf.ServerName = node.Name
	client := http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialLimit}).DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: dialLimit,
		ResponseHeaderTimeout: dialLimit, MaxResponseHeaderBytes: maxLine, DisableKeepAlives: true, DisableCompression: true,
	}}
	var errs []error
	for _, addr := range node.Addrs {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr.String()+Path, nil)
		if err != nil {
			return nil, err
		}
		response, err := client.Do(request)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		switch response.StatusCode {
		case http.StatusOK:
			return response.Body, nil
		case http.StatusNotFound, http.StatusForbidden: // agents that know nothing of this answer either
			err = errRefused
		default:
			err = errors.New(response.Status)
		}
		response.Body.Close()
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	return nil, errors.Join(errs...)
}

// heard takes in what a node said.
func (p *Peers) heard(n *peer, l line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.heard && n.pods == l.Pods {
		return // a beat
	}
	n.heard, n.pods, n.late = true, l.Pods, false
	p.announce()
}

// lost says that the stream of a node has ended. What it said counts no more: its agent may come back knowing less.
func (p *Peers) lost(n *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n.heard = false
	p.announce()
}
