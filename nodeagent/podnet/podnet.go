// SPDX-License-Identifier: Apache-2.0

// Package podnet attaches pods to the network of their node and detaches them: network namespace, device pair,
// addresses and routes, and the hand-over to the datapath.
//
// A pod looks like this; nothing in it is shared with another pod:
//
//	 node's namespace                       pod's namespace, pinned at RunDir/netns/UID
//	+--------------------------------+     +------------------------------------------+
//	| 10.244.1.7/32 dev skep1a2b..   |     | eth0  10.244.1.7/32  fd00:..:7/128       |
//	| neighbour 10.244.1.7 permanent |=====| default via 169.254.1.1 and fe80::1,     |
//	+--------------------------------+     | both permanent neighbours (the host end) |
//	                                       +------------------------------------------+
//
// All state that must outlive the agent is in the kernel and in one checkpoint file. New adopts both.
package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/netdev"
)

// ErrNoPodCIDR is returned by Attach before SetPodCIDRs.
var ErrNoPodCIDR = errors.New("this node has no pod CIDR yet")

// ErrExhausted is returned by Attach when every address of a pod CIDR is in use.
var ErrExhausted = errors.New("no free pod address")

// Config says where pods are kept. All fields but Logger are required.
type Config struct {
	NodeName string
	// RunDir holds the pinned network namespaces. It is empty after a reboot.
	RunDir string
	// DataDir holds the checkpoint.
	DataDir string
	// Uplink is the device towards the other nodes; pods take its MTU.
	Uplink string
	Logger *slog.Logger
}

// Validate reports every fault of the configuration.
func (c Config) Validate() error {
	var errs []error
	for name, v := range map[string]string{"NodeName": c.NodeName, "RunDir": c.RunDir, "DataDir": c.DataDir, "Uplink": c.Uplink} {
		if v == "" {
			errs = append(errs, fmt.Errorf("podnet: %s is empty", name))
		}
	}
	return errors.Join(errs...)
}

// Pod names the pod to attach.
type Pod struct {
	UID, Namespace, Name string
}

// Attachment is what a pod got.
type Attachment struct {
	// NetNS is the path of the pinned network namespace.
	NetNS string
	// Addrs are the pod's addresses in the order of the pod CIDRs: one or two, of different families.
	Addrs []netip.Addr
	// IfName is the host-side device.
	IfName string
	MTU    int
}

// Network owns the pods' devices and addresses of one node. It is safe for concurrent use.
type Network struct {
	cfg   Config
	dp    datapath.Datapath
	log   *slog.Logger
	nl    *netdev.Handle
	clock func() time.Time
	mtu   int
	// nodeAddrs are the uplink's addresses, preferred as source towards local pods.
	nodeAddrs []netip.Addr

	mu sync.Mutex // guards state and busy, never held across kernel calls or the datapath's
	// state is written to the checkpoint before anything that depends on it happens.
	state state
	// busy serialises work on one pod.
	busy map[string]chan struct{}
}

// New opens the node's namespace (that of the calling process), prepares it for forwarding and adopts the pods
// that are there from before.
func New(cfg Config, dp datapath.Datapath) (*Network, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Network{
		cfg:   cfg,
		dp:    dp,
		log:   cfg.Logger.With("component", "podnet"),
		clock: time.Now,
		busy:  map[string]chan struct{}{},
	}
	if err := n.open(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Network) open() error {
	var err error
	if n.nl, err = netdev.Open(); err != nil {
		return err
	}
	uplink, err := n.nl.Link(n.cfg.Uplink)
	if err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	n.mtu = uplink.MTU
	if n.nodeAddrs, err = n.nl.Addrs(uplink.Index); err != nil {
		return err
	}
	if err := prepareNode(n.cfg.Uplink); err != nil {
		return err
	}
	if n.state, err = loadState(n.checkpointPath()); err != nil {
		// Addresses in use are still known from the kernel, so a damaged file costs only the reuse delay.
		// A missing one is the same while pods run: an empty state would have them all removed as strays.
		if !errors.Is(err, os.ErrNotExist) {
			n.log.Error("checkpoint is unreadable, rebuilding it from what is attached", "err", err)
		}
		if n.state, err = n.rebuildState(); err != nil {
			return err
		}
	}
	return n.adopt()
}

// Close releases descriptors. Pods stay attached.
func (n *Network) Close() {
	if n.nl != nil {
		n.nl.Close()
	}
}

// SetPodCIDRs gives the ranges to take addresses from, at most one of each family. Pods keep the addresses they have.
func (n *Network) SetPodCIDRs(cidrs []netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state.setRanges(cidrs)
}

// Reserve gives a pod its addresses and an empty network namespace, all that can be known of its network before the work of
// Attach. The Attachment has no device yet. It is idempotent, and Detach undoes it.
func (n *Network) Reserve(ctx context.Context, pod Pod) (Attachment, error) {
	if err := validUID(pod.UID); err != nil {
		return Attachment{}, err
	}
	release, err := n.own(ctx, pod.UID)
	if err != nil {
		return Attachment{}, err
	}
	defer release()
	rec, err := n.reserve(pod)
	if err != nil {
		return Attachment{}, fmt.Errorf("reserve network of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if path := n.netnsPath(rec.UID); !netdev.IsNamespace(path) {
		handle, err := n.namespace(path)
		if err != nil {
			return Attachment{}, fmt.Errorf("reserve network of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		handle.Close()
	}
	return n.attachment(rec, netdev.Link{}), nil
}

// Attach gives a pod its network. It is idempotent: a second call returns the same attachment and repairs what is missing.
func (n *Network) Attach(ctx context.Context, pod Pod) (Attachment, error) {
	if err := validUID(pod.UID); err != nil {
		return Attachment{}, err
	}
	release, err := n.own(ctx, pod.UID)
	if err != nil {
		return Attachment{}, err
	}
	defer release()
	rec, err := n.reserve(pod)
	if err != nil {
		return Attachment{}, fmt.Errorf("attach pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	link, err := n.plug(ctx, rec)
	if err != nil {
		return Attachment{}, fmt.Errorf("attach pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if err := n.dp.SetEndpoint(ctx, rec.endpoint(link.Index)); err != nil {
		return Attachment{}, fmt.Errorf("attach pod %s/%s to the datapath: %w", pod.Namespace, pod.Name, err)
	}
	return n.attachment(rec, link), nil
}

// Detach takes a pod's network away. Its addresses are not given to another pod for reuseDelay. Absence is not an error.
func (n *Network) Detach(ctx context.Context, uid string) error {
	if err := validUID(uid); err != nil {
		return err
	}
	release, err := n.own(ctx, uid)
	if err != nil {
		return err
	}
	defer release()
	if err := n.unplug(ctx, uid); err != nil {
		return fmt.Errorf("detach pod %s: %w", uid, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.state.release(uid, n.clock()) {
		return nil
	}
	return n.state.save(n.checkpointPath())
}

// Lookup returns the attachment of a pod that has one.
func (n *Network) Lookup(uid string) (Attachment, bool) {
	n.mu.Lock()
	rec, ok := n.state.Pods[uid]
	n.mu.Unlock()
	if !ok {
		return Attachment{}, false
	}
	link, err := n.nl.Link(rec.IfName)
	if err != nil || !netdev.IsNamespace(n.netnsPath(uid)) {
		return Attachment{}, false
	}
	return n.attachment(rec, link), true
}

// Pods lists the pods that hold addresses, attached or not, so that the caller can detach those it does not know.
func (n *Network) Pods() []Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Pod, 0, len(n.state.Pods))
	for uid, r := range n.state.Pods {
		out = append(out, Pod{UID: uid, Namespace: r.Namespace, Name: r.Name})
	}
	return out
}

// own waits until no other call works on the pod.
func (n *Network) own(ctx context.Context, uid string) (release func(), err error) {
	for {
		n.mu.Lock()
		other, taken := n.busy[uid]
		if !taken {
			mine := make(chan struct{})
			n.busy[uid] = mine
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				delete(n.busy, uid)
				n.mu.Unlock()
				close(mine)
			}, nil
		}
		n.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// reserve returns the pod's record, made and checkpointed if need be.
func (n *Network) reserve(pod Pod) (record, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if rec, ok := n.state.Pods[pod.UID]; ok {
		return rec, nil
	}
	rec, err := n.state.allocate(pod, n.clock())
	if err != nil {
		return record{}, err
	}
	if err := n.state.save(n.checkpointPath()); err != nil {
		n.state.forget(pod.UID)
		return record{}, err
	}
	return rec, nil
}

func (n *Network) attachment(rec record, link netdev.Link) Attachment {
	return Attachment{NetNS: n.netnsPath(rec.UID), Addrs: rec.Addrs, IfName: link.Name, MTU: link.MTU}
}

func (n *Network) netnsPath(uid string) string { return filepath.Join(n.cfg.RunDir, "netns", uid) }

func (n *Network) checkpointPath() string { return filepath.Join(n.cfg.DataDir, "podnet.json") }

// validUID guards the file name that is made of it.
func validUID(uid string) error {
	if uid == "" || uid == "." || uid == ".." || filepath.Base(uid) != uid {
		return fmt.Errorf("pod UID %q is not usable as a name", uid)
	}
	return nil
}
