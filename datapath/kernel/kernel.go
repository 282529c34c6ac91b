// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/conntrack"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/netdev"
	"skep.dev/skep/datapath/reconcile"
)

// Datapath is datapath.Datapath on this kernel.
type Datapath struct {
	config   Config
	objects  *loader.Objects
	attacher *loader.Attacher
	node     *reconcile.Node
	devices  *netdev.Handle
	sweeper  *conntrack.Sweeper

	// attaching serialises changes to devices with the listing of what is attached.
	attaching sync.Mutex
	// tracking serialises the writing of notrack rules and guards nodes, for which they were last written; nil before the first time.
	tracking sync.Mutex
	nodes    []datapath.Node
	stop     chan struct{}
	stopped  chan struct{}
}

var _ datapath.Datapath = (*Datapath)(nil)

// New loads, adopts and attaches. It must run in the node's network namespace. When it returns, the programs are in force for
// every endpoint that was there before.
func New(ctx context.Context, config Config) (*Datapath, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("datapath configuration: %w", err)
	}
	config = config.withDefaults()
	objects, err := loader.Load(loader.Options{
		PinDir:       config.PinDir,
		MaxEntries:   map[string]uint32{"skep_ct_first": uint32(config.ConntrackMax)},
		ServiceCIDRs: config.ServiceCIDRs,
	})
	if err != nil {
		return nil, err
	}
	d := &Datapath{
		config: config, objects: objects,
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	if err := d.start(ctx); err != nil {
		close(d.stopped)
		return nil, errors.Join(err, d.Close())
	}
	go d.sweep()
	return d, nil
}

func (d *Datapath) start(ctx context.Context) error {
	var err error
	if d.attacher, err = loader.NewAttacher(d.config.PinDir, d.config.NoTCX); err != nil {
		return err
	}
	if d.devices, err = netdev.Open(); err != nil {
		return err
	}
	if d.node, err = reconcile.New(d.objects.Maps, reconcile.Clock{Now: time.Now, Sleep: time.Sleep}); err != nil {
		return err
	}
	d.sweeper = &conntrack.Sweeper{
		Maps: d.objects.Maps, Expire: d.objects.Programs[loader.ProgramExpire], Timeouts: d.config.Timeouts, Now: bpfmap.Now,
	}
	if err := d.node.SetNodes(d.self()); err != nil {
		return err
	}
	if err := d.adopt(ctx); err != nil {
		return err
	}
	if err := d.attachUplink(); err != nil {
		return err
	}
	return d.attachSockets()
}

// self is this node as far as the configuration knows it; SetNodes replaces it by the whole cluster.
func (d *Datapath) self() []datapath.Node {
	return []datapath.Node{{Name: d.config.Node, Addrs: d.config.NodeAddrs, Self: true}}
}

// adopt gives the endpoints of an earlier run the new programs, and forgets those whose device is gone.
func (d *Datapath) adopt(ctx context.Context) error {
	links, err := d.devices.Links("")
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, ep := range d.node.Endpoints() {
		alive := slices.ContainsFunc(links, func(l netdev.Link) bool { return l.Index == ep.Ifindex && l.Name == ep.IfName })
		if !alive {
			d.config.Logger.Info("endpoint went while the agent was away", "pod", ep.Namespace+"/"+ep.Name, "ifindex", ep.Ifindex)
			if err := d.DeleteEndpoint(ctx, ep.ID); err != nil {
				return err
			}
			continue
		}
		if err := d.attachEndpoint(ep.Ifindex); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) attachEndpoint(ifindex int) error {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	return errors.Join(
		d.attacher.AttachDevice(ifindex, loader.Egress, d.objects.Programs[loader.ProgramToPod], loader.ProgramToPod),
		d.attacher.AttachDevice(ifindex, loader.Ingress, d.objects.Programs[loader.ProgramFromPod], loader.ProgramFromPod),
	)
}

func (d *Datapath) attachUplink() error {
	if d.config.Uplink == "" {
		return nil
	}
	uplink, err := d.devices.Link(d.config.Uplink)
	if err != nil {
		return fmt.Errorf("find the uplink %s: %w", d.config.Uplink, err)
	}
	d.attaching.Lock()
	defer d.attaching.Unlock()
	return d.attacher.AttachDevice(uplink.Index, loader.Ingress, d.objects.Programs[loader.ProgramUplink], loader.ProgramUplink)
}

func (d *Datapath) attachSockets() error {
	if d.config.CgroupPath == "" {
		return nil
	}
	d.attaching.Lock()
	defer d.attaching.Unlock()
	var errs []error
	for name, attach := range loader.SocketPrograms {
		errs = append(errs, d.attacher.AttachCgroup(d.config.CgroupPath, attach, d.objects.Programs[name], name))
	}
	return errors.Join(errs...)
}

// SetEndpoint enters the endpoint first and attaches then: a device without programs would forward unjudged, an entry
// without device does nothing.
func (d *Datapath) SetEndpoint(_ context.Context, ep datapath.Endpoint) error {
	if err := d.node.SetEndpoint(ep); err != nil {
		return err
	}
	if err := d.attachEndpoint(ep.Ifindex); err != nil {
		return fmt.Errorf("endpoint %s: %w", ep.ID, err)
	}
	return nil
}

// DeleteEndpoint forgets the endpoint first: its packets are dropped until the programs are off the device.
func (d *Datapath) DeleteEndpoint(_ context.Context, id datapath.EndpointID) error {
	all := d.node.Endpoints()
	i := slices.IndexFunc(all, func(ep datapath.Endpoint) bool { return ep.ID == id })
	if i < 0 {
		return nil
	}
	if err := d.node.DeleteEndpoint(id); err != nil {
		return err
	}
	d.attaching.Lock()
	defer d.attaching.Unlock()
	return d.attacher.DetachDevice(all[i].Ifindex)
}

// Endpoints lists what is attached.
func (d *Datapath) Endpoints(context.Context) ([]datapath.Endpoint, error) {
	return d.node.Endpoints(), nil
}

// SetPolicy replaces the whole policy.
func (d *Datapath) SetPolicy(_ context.Context, p *datapath.PolicyState) error {
	return d.node.SetPolicy(p)
}

// SetServices replaces all Services.
func (d *Datapath) SetServices(_ context.Context, services []datapath.Service) error {
	return d.node.SetServices(services)
}

// SetNodes replaces all nodes. This node's own configured addresses stay, whatever the list says of it.
func (d *Datapath) SetNodes(_ context.Context, nodes []datapath.Node) error {
	if err := d.node.SetNodes(slices.Concat(nodes, d.self())); err != nil {
		return err
	}
	if d.config.Uplink == "" {
		return nil
	}
	d.tracking.Lock()
	d.nodes = slices.Clone(nodes)
	err := d.devices.SyncNotrack(nodes)
	d.tracking.Unlock()
	if err != nil {
		// A kernel without nftables has no netfilter in the way either.
		d.config.Logger.Warn("netfilter tracks the pods' connections too", "err", err)
	}
	return d.devices.SyncRoutes(nodes, d.config.Uplink)
}

// Close stops sweeping and releases descriptors. What is pinned stays in force.
func (d *Datapath) Close() error {
	select {
	case <-d.stop:
		return nil
	default:
		close(d.stop)
	}
	<-d.stopped
	if d.devices != nil {
		d.devices.Close()
	}
	var err error
	if d.attacher != nil {
		err = d.attacher.Close()
	}
	return errors.Join(err, d.objects.Close())
}

// keepNotrack writes the notrack rules again when somebody has removed them.
func (d *Datapath) keepNotrack() error {
	d.tracking.Lock()
	defer d.tracking.Unlock()
	if d.nodes == nil {
		return nil
	}
	there, err := d.devices.HasNotrack()
	if err != nil || there {
		return err
	}
	if err := d.devices.SyncNotrack(d.nodes); err != nil {
		return err
	}
	d.config.Logger.Info("somebody flushed the nftables rules that keep netfilter's tracking off pods: they are there again")
	return nil
}

// sweep ages flows until Close, and repairs what others may have removed.
func (d *Datapath) sweep() {
	defer close(d.stopped)
	ticker := time.NewTicker(d.config.SweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-ticker.C:
		}
		if err := d.node.Tidy(); err != nil {
			d.config.Logger.Warn("old backends were not removed", "err", err)
		}
		if err := d.keepNotrack(); err != nil {
			d.config.Logger.Debug("the notrack rules were not looked at", "err", err)
		}
		result, err := d.sweeper.Sweep()
		if err != nil {
			d.config.Logger.Warn("flows were not aged", "err", err)
		}
		d.config.Logger.Debug("flows aged", "entries", result.Entries, "expired", result.Expired, "deleted", result.Deleted)
	}
}
