// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Hook is a place at a device where packets pass.
type Hook uint8

// The two hooks, seen from the device: Ingress is what it receives.
const (
	Ingress Hook = iota
	Egress
)

func (h Hook) String() string {
	if h == Ingress {
		return "ingress"
	}
	return "egress"
}

// Attacher attaches programs to devices and cgroups. tcx links (6.6) are pinned and outlive the process; without them a clsact
// filter is used, which lives with the device. Either way a second attachment replaces the program without a gap.
//
// It works in the network namespace of the thread that made it; AttachDevice must be called from there too.
type Attacher struct {
	pinDir string
	noTCX  bool
	nl     *netlink.Handle
	links  []link.Link
}

// NewAttacher makes an Attacher. pinDir holds the links; without one they end with the Attacher. noTCX uses clsact even
// where the kernel has tcx.
func NewAttacher(pinDir string, noTCX bool) (*Attacher, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &Attacher{pinDir: pinDir, noTCX: noTCX, nl: nl}, nil
}

// The one filter that we own on a device: found again, and replaced, by these numbers.
const (
	filterHandle   = 1
	filterPriority = 1
)

// Close gives up the links that are not pinned.
func (a *Attacher) Close() error {
	var errs []error
	for _, l := range a.links {
		errs = append(errs, l.Close())
	}
	a.links = nil
	a.nl.Close()
	return errors.Join(errs...)
}

// AttachDevice puts a program at a device's hook, in place of what we had there before.
func (a *Attacher) AttachDevice(ifindex int, hook Hook, program *ebpf.Program, name string) error {
	err := ebpf.ErrNotSupported
	if !a.noTCX {
		err = a.attachTCX(ifindex, hook, program)
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		err = a.attachFilter(ifindex, hook, program, name)
	}
	if err != nil {
		return fmt.Errorf("attach %s to %s of device %d: %w", name, hook, ifindex, err)
	}
	return nil
}

func (a *Attacher) attachTCX(ifindex int, hook Hook, program *ebpf.Program) error {
	attach := map[Hook]ebpf.AttachType{Ingress: ebpf.AttachTCXIngress, Egress: ebpf.AttachTCXEgress}[hook]
	pin := a.pin(devicePin(ifindex, hook))
	adopted, err := a.adopt(pin, program, func(info *link.Info) bool {
		tcx := info.TCX()
		return tcx != nil && tcx.Ifindex == uint32(ifindex)
	})
	if adopted || err != nil {
		return err
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: program, Attach: attach})
	if err != nil {
		return err
	}
	return a.keep(l, pin)
}

// AttachCgroup attaches a program to a cgroup by a link.
func (a *Attacher) AttachCgroup(path string, attach ebpf.AttachType, program *ebpf.Program, name string) error {
	pin := a.pin("cgroup_" + name)
	id, err := cgroupID(path)
	if err != nil {
		return err
	}
	adopted, err := a.adopt(pin, program, func(info *link.Info) bool {
		cgroup := info.Cgroup()
		return cgroup != nil && cgroup.CgroupId == id
	})
	if adopted || err != nil {
		return err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: path, Attach: attach, Program: program})
	if err != nil {
		return fmt.Errorf("attach %s to cgroup %s: %w", name, path, err)
	}
	return a.keep(l, pin)
}

// cgroupID is the inode number of a cgroup's directory.
func cgroupID(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("look at cgroup %s: %w", path, err)
	}
	return stat.Ino, nil
}

// adopt swaps the program of a pinned link that is still where it should be. One that is not (its device or cgroup went and the
// number came back) is removed.
func (a *Attacher) adopt(pin string, program *ebpf.Program, right func(*link.Info) bool) (bool, error) {
	if pin == "" {
		return false, nil
	}
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open pinned link %s: %w", pin, err)
	}
	info, err := l.Info()
	if err == nil && right(info) {
		if err := l.Update(program); err != nil {
			return false, errors.Join(fmt.Errorf("replace the program of %s: %w", pin, err), l.Close())
		}
		return true, l.Close()
	}
	if err := errors.Join(l.Unpin(), l.Close()); err != nil {
		return false, fmt.Errorf("give up pinned link %s: %w", pin, err)
	}
	return false, nil
}

func (a *Attacher) keep(l link.Link, pin string) error {
	if pin == "" {
		a.links = append(a.links, l)
		return nil
	}
	if err := l.Pin(pin); err != nil {
		return errors.Join(fmt.Errorf("pin link %s: %w", pin, err), l.Close())
	}
	return l.Close()
}

func (a *Attacher) pin(name string) string {
	if a.pinDir == "" {
		return ""
	}
	return filepath.Join(a.pinDir, linkPrefix+name)
}

const linkPrefix = "link_"

// HookCgroup is the Hook of programs attached to a cgroup.
const HookCgroup = "cgroup"

func devicePin(ifindex int, hook Hook) string { return fmt.Sprintf("device_%d_%s", ifindex, hook) }

// DetachDevice takes our programs off a device. A device that is gone has none.
func (a *Attacher) DetachDevice(ifindex int) error {
	var errs []error
	for _, hook := range []Hook{Ingress, Egress} {
		if pin := a.pin(devicePin(ifindex, hook)); pin != "" {
			if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, fmt.Errorf("unpin %s: %w", pin, err))
			}
		}
		errs = append(errs, a.detachFilter(ifindex, hook))
	}
	return errors.Join(errs...)
}

// Attached is one attachment that lives on its own.
type Attached struct {
	Program ebpf.ProgramID
	Hook    string
	Target  string
}

// List shows what is attached by pinned links, and by filters to the devices given.
func (a *Attacher) List(ifindexes []int) ([]Attached, error) {
	var out []Attached
	if a.pinDir != "" {
		entries, err := os.ReadDir(a.pinDir)
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
		for _, entry := range entries {
			if !strings.HasPrefix(entry.Name(), linkPrefix) {
				continue
			}
			if found, ok := describe(filepath.Join(a.pinDir, entry.Name())); ok {
				out = append(out, found)
			}
		}
	}
	for _, ifindex := range ifindexes {
		for _, hook := range []Hook{Ingress, Egress} {
			if filter := a.ourFilter(ifindex, hook); filter != nil {
				out = append(out, Attached{ebpf.ProgramID(filter.Id), "clsact/" + hook.String(), fmt.Sprintf("ifindex %d", ifindex)})
			}
		}
	}
	return out, nil
}

func describe(pin string) (Attached, bool) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return Attached{}, false
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return Attached{}, false
	}
	if tcx := info.TCX(); tcx != nil && tcx.Ifindex != 0 {
		hook := Ingress
		if ebpf.AttachType(tcx.AttachType) == ebpf.AttachTCXEgress {
			hook = Egress
		}
		return Attached{info.Program, "tcx/" + hook.String(), fmt.Sprintf("ifindex %d", tcx.Ifindex)}, true
	}
	if cgroup := info.Cgroup(); cgroup != nil {
		return Attached{info.Program, HookCgroup, fmt.Sprintf("cgroup %d", cgroup.CgroupId)}, true
	}
	return Attached{}, false
}

func hookParent(hook Hook) uint32 {
	if hook == Ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// attachFilter is for kernels before 6.6. Replacing a filter of the same handle and priority is atomic.
func (a *Attacher) attachFilter(ifindex int, hook Hook, program *ebpf.Program, name string) error {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := a.nl.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	return a.nl.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: hookParent(hook), Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: name, DirectAction: true,
	})
}

func (a *Attacher) ourFilter(ifindex int, hook Hook) *netlink.BpfFilter {
	device, err := a.nl.LinkByIndex(ifindex)
	if err != nil {
		return nil
	}
	filters, err := a.nl.FilterList(device, hookParent(hook))
	if err != nil {
		return nil
	}
	for _, f := range filters {
		if bpf, ok := f.(*netlink.BpfFilter); ok && bpf.Handle == filterHandle && bpf.Priority == filterPriority &&
			strings.HasPrefix(bpf.Name, "skep_") {
			return bpf
		}
	}
	return nil
}

func (a *Attacher) detachFilter(ifindex int, hook Hook) error {
	filter := a.ourFilter(ifindex, hook)
	if filter == nil {
		return nil
	}
	if err := a.nl.FilterDel(filter); err != nil {
		return fmt.Errorf("detach from %s of device %d: %w", hook, ifindex, err)
	}
	return nil
}
