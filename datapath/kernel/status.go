// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/event"
	"skep.dev/skep/datapath/loader"
)

// Status reads counters, fill of the maps and what is attached.
func (d *Datapath) Status(ctx context.Context) (datapath.Status, error) {
	programs, err := d.programs()
	if err != nil {
		return datapath.Status{}, err
	}
	fill, err := d.objects.Maps.Fill()
	if err != nil {
		return datapath.Status{}, err
	}
	verdicts, drops, err := bpfmap.Metrics(d.objects.Maps.Metric)
	if err != nil {
		return datapath.Status{}, err
	}
	rules, err := d.RuleCounters(ctx)
	if err != nil {
		return datapath.Status{}, err
	}
	lost, err := event.Lost(d.objects.Maps)
	if err != nil {
		return datapath.Status{}, err
	}
	return datapath.Status{
		EventsLost: lost,
		Programs:   programs, Maps: fill, Verdicts: verdicts, Drops: drops, Rules: rules, Warnings: d.warnings(),
	}, nil
}

// RuleCounters reads the counters of all rules that have any.
func (d *Datapath) RuleCounters(context.Context) ([]datapath.RuleCounter, error) {
	return bpfmap.RuleCounters(d.objects.Maps.RuleSlot, d.objects.Maps.RuleCount)
}

// warnings are about what is not ours: they are worth a look, and a kernel without nftables has none.
func (d *Datapath) warnings() []string {
	chains, err := d.devices.ForwardDrops()
	if err != nil {
		d.config.Logger.Debug("foreign firewalls were not looked for", "err", err)
	}
	var out []string
	for _, chain := range chains {
		out = append(out, fmt.Sprintf("the nftables chain %s drops forwarded packets that none of its rules accepts: pods of other nodes may be out of reach", chain))
	}
	return out
}

func (d *Datapath) programs() ([]datapath.Program, error) {
	names, devices := map[ebpf.ProgramID]string{}, map[string]string{}
	for name, program := range d.objects.Programs {
		info, err := program.Info()
		if err != nil {
			return nil, fmt.Errorf("look at program %s: %w", name, err)
		}
		if id, ok := info.ID(); ok {
			names[id] = name
		}
	}
	links, err := d.devices.Links("")
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	indexes := []int{}
	for _, l := range links {
		indexes = append(indexes, l.Index)
		devices[fmt.Sprintf("ifindex %d", l.Index)] = l.Name
	}
	d.attaching.Lock()
	attached, err := d.attacher.List(indexes)
	d.attaching.Unlock()
	if err != nil {
		return nil, err
	}
	out := []datapath.Program{}
	for _, a := range attached {
		target := cmp.Or(devices[a.Target], a.Target)
		if a.Hook == loader.HookCgroup {
			target = d.config.CgroupPath
		}
		out = append(out, datapath.Program{
			Name: cmp.Or(names[a.Program], "unknown"), Hook: a.Hook, Target: target, ID: uint32(a.Program),
		})
	}
	slices.SortFunc(out, func(a, b datapath.Program) int {
		return cmp.Or(cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}
