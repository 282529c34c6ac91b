// SPDX-License-Identifier: Apache-2.0

// Package podsync decides what to do next for one pod, and what its status is. It is pure: a spec and what was observed go in, actions and
// a status come out; no client, no clock, no kernel.
//
// One container:
//
//	         Start                    process runs               process ends
//	None ───────────▶ Starting ──────────────────────▶ Running ────────────────▶ Exited
//	  ▲                  │                                │  ▲                      │
//	  └──────────────────┘                                ▼  │                      │
//	   create failed, after RetryAt                    Stopping ───────────────────▶┤
//	                                                                                │
//	  Starting (next attempt) ◀──── restart policy says so, back-off over ──────────┘
//
// One pod: init containers one after another, each to its end (a restartable one until it has started), then all containers at once.
// When the pod is deleted, past its deadline or finished: containers stop, restartable init containers after them in
// reverse order; then network and volumes go (Teardown); then, if it was deleted, the API object does (Finish).
package podsync

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// Phase of one container's newest attempt.
type Phase int

// See the drawing above. Starting and Stopping mean that the action is under way.
const (
	None Phase = iota
	Starting
	Running
	Stopping
	Exited
)

// Exit says how one attempt ended.
type Exit struct {
	ContainerID           string
	Attempt               int
	Code                  int
	Reason, Message       string
	StartedAt, FinishedAt time.Time
}

// Container is what is known about one container of the pod.
type Container struct {
	Phase Phase
	// ID, Attempt, StartedAt, Image and SpecHash are of the newest attempt that has run.
	ID             string
	Attempt        int
	StartedAt      time.Time
	Image, ImageID string
	SpecHash       string
	// Current is the end of the newest attempt, Last that of the one before it.
	Current, Last *Exit
	// Waiting says why the next attempt has not started, RetryAt when it may be tried again.
	WaitingReason, WaitingMessage string
	RetryAt                       time.Time
	// Backoff is how long after its end an exited container is started again.
	Backoff time.Duration
	// Started and Ready are what the probes say; without probes they follow the process.
	Started, Ready bool
	// Unhealthy, when set, names the probe that wants the container restarted.
	Unhealthy string
	// StopBy is when a container that is Stopping will be killed.
	StopBy time.Time
}

// Observed is everything that is known about a pod at one moment.
type Observed struct {
	Now time.Time
	// StartTime is when this node took the pod on.
	StartTime time.Time
	// SpecHash gives the hash of each container's definition as it is now.
	SpecHash map[string]string
	// SandboxReady says that the pod's namespaces and network exist.
	SandboxReady bool
	HostIPs      []string
	PodIPs       []string
	Containers   map[string]Container
	// TornDown says that namespaces, network and volumes are gone.
	TornDown bool
	// Gone says that the API no longer has the pod.
	Gone bool
	// Rejected, when set, says why this node does not run the pod at all.
	RejectedReason, RejectedMessage string
}

// Kind of an action.
type Kind int

// The actions of a plan.
const (
	// Start makes and starts the next attempt of a container.
	Start Kind = iota
	// Stop ends a container: preStop hook, signal, grace period, kill. For one that is Stopping it brings the end of the grace
	// period forward.
	Stop
	// Teardown removes namespaces, network and volumes.
	Teardown
	// Finish removes the pod from the API.
	Finish
)

// Action is one thing to do now. Actions of a plan are independent of each other.
type Action struct {
	Kind      Kind
	Container string
	// Attempt is the number of the attempt to start.
	Attempt int
	// Grace is how long a container gets to stop.
	Grace time.Duration
	// Reason is the text of the Killing event.
	Reason string
}

// Plan is the decision.
type Plan struct {
	Actions []Action
	Status  v1.PodStatus
	// Wake is when to decide again even if nothing happens; zero for never.
	Wake time.Time
}

const (
	initialBackoff = 10 * time.Second
	maxBackoff     = 5 * time.Minute
	// A container that ran this long has recovered: its back-off starts anew.
	backoffReset = 10 * time.Minute
)

// NextBackoff is how long to wait after an attempt has ended, given the wait before it. The first restart is immediate.
func NextBackoff(previous time.Duration, attempt int, ran time.Duration) time.Duration {
	switch {
	case attempt == 0 || ran >= backoffReset:
		return 0
	case previous == 0:
		return initialBackoff
	default:
		return min(2*previous, maxBackoff)
	}
}

// RetryBackoff is the same for something that failed n times in a row without having run.
func RetryBackoff(n int) time.Duration {
	d := initialBackoff
	for range n - 1 {
		d = min(2*d, maxBackoff)
	}
	return d
}
