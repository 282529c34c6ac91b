// SPDX-License-Identifier: Apache-2.0

// Package peer has the agents of a cluster tell each other how far they are. Each serves one number, the highest resourceVersion of
// pods that its datapath knows, and follows those of the others, so that a pod can wait with its first packet until the nodes
// that it may go to know the pod.
package peer

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// Path is where an agent serves its Progress.
const Path = "/progress"

const (
	// beat is how often a stream says something even if there is nothing new.
	beat = 5 * time.Second
	// writeLimit is how long a client may keep the server from writing.
	writeLimit = 10 * time.Second
	// perStream is the pause after each line, for each stream that is open: an agent sends 10,000 lines a second at most, however many
	// nodes and pods there are.
	perStream = 100 * time.Microsecond
)

// line is what a stream consists of, as JSON. Fields may be added: readers skip what they do not know.
type line struct {
	// Pods is empty until the agent has taken in its first pod.
	Pods string `json:"pods"`
}

// Progress is how far this node is. It serves itself to the agents of other nodes, as a stream that does not end.
type Progress struct {
	mu      sync.Mutex // guards what follows
	pods    string
	moved   chan struct{} // closed and replaced when pods changes
	streams int
}

// NewProgress returns the progress of a node that knows no pod.
func NewProgress() *Progress { return &Progress{moved: make(chan struct{})} }

// SetPods says that the datapath knows all pods up to a resourceVersion.
func (p *Progress) SetPods(version string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pods = version
	close(p.moved)
	p.moved = make(chan struct{})
}

// look returns what to say now, what is closed when there is more, and how long to be silent before that.
func (p *Progress) look() (line, <-chan struct{}, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return line{Pods: p.pods}, p.moved, time.Duration(p.streams) * perStream
}

func (p *Progress) count(delta int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams += delta
}

// ServeHTTP implements http.Handler.
func (p *Progress) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.count(1)
	defer p.count(-1)
	w.Header().Set("Content-Type", "application/jsonl")
	out := http.NewResponseController(w)
	for {
		now, moved, pause := p.look()
		if err := out.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
			return
		}
		if json.NewEncoder(w).Encode(now) != nil || out.Flush() != nil {
			return // the client has gone
		}
		if !sleep(r.Context(), pause) {
			return
		}
		again := time.NewTimer(beat)
		select {
		case <-moved:
		case <-again.C:
		case <-r.Context().Done():
		}
		again.Stop()
	}
}

// sleep waits for d and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
