// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/netdev"
)

// stateVersion is the layout of the checkpoint file.
const stateVersion = 1

// reuseDelay keeps a released address out of use while peers may still send to its former owner.
const reuseDelay = 30 * time.Second

// state is the checkpoint. It is written whole and atomically before an address is used.
type state struct {
	Version int               `json:"version"`
	Pods    map[string]record `json:"pods"`
	// Cooling are released addresses that wait out the reuse delay.
	Cooling map[netip.Addr]time.Time `json:"cooling,omitempty"`
	// Last is the address handed out last, per family: the search goes on behind it, so that addresses come
	// back as late as possible.
	Last map[string]netip.Addr `json:"last,omitempty"`

	ranges []addrRange
	used   map[netip.Addr]bool
}

// record is one pod's allocation. The hardware addresses are derived from the UID and kept for adoption.
type record struct {
	UID       string       `json:"uid"`
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	IfName    string       `json:"ifName"`
	Addrs     []netip.Addr `json:"addrs"`
}

func newState() state {
	return state{
		Version: stateVersion,
		Pods:    map[string]record{},
		Cooling: map[netip.Addr]time.Time{},
		Last:    map[string]netip.Addr{},
		used:    map[netip.Addr]bool{},
	}
}

// loadState reads the checkpoint. A missing file is an error that is os.ErrNotExist.
func loadState(path string) (state, error) {
	s := newState()
	b, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("read checkpoint: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return newState(), fmt.Errorf("decode checkpoint %s: %w", path, err)
	}
	if s.Version != stateVersion {
		return newState(), fmt.Errorf("checkpoint %s has version %d, this program knows %d", path, s.Version, stateVersion)
	}
	for uid, r := range s.Pods {
		if r.UID != uid || validUID(uid) != nil {
			return newState(), fmt.Errorf("checkpoint %s names pod %q inconsistently", path, uid)
		}
		for _, a := range r.Addrs {
			if s.used[a] {
				return newState(), fmt.Errorf("checkpoint %s gives address %s to two pods", path, a)
			}
			s.used[a] = true
		}
	}
	return s, nil
}

// save replaces the checkpoint by rename. It does not wait for the disk: what survives a crash of the machine does not
// matter, as no pod does; the rename alone makes it safe against the end of this process.
func (s *state) save(path string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode checkpoint: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// allocate gives the pod one address of each range.
func (s *state) allocate(pod Pod, now time.Time) (record, error) {
	if len(s.ranges) == 0 {
		return record{}, ErrNoPodCIDR
	}
	rec := record{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, IfName: hostIfName(pod.UID)}
	for _, r := range s.ranges {
		a, ok := r.next(s.Last[r.family()], func(a netip.Addr) bool { return s.free(a, now) })
		if !ok {
			// An address that still cools down is better than a pod that cannot start.
			a, ok = s.coolest(r)
		}
		if !ok {
			return record{}, fmt.Errorf("%w in %s", ErrExhausted, r.prefix)
		}
		rec.Addrs = append(rec.Addrs, a)
	}
	for _, a := range rec.Addrs {
		s.used[a] = true
		s.Last[familyName(a)] = a
		delete(s.Cooling, a)
	}
	s.Pods[pod.UID] = rec
	return rec, nil
}

func (s *state) free(a netip.Addr, now time.Time) bool {
	if s.used[a] {
		return false
	}
	until, cooling := s.Cooling[a]
	return !cooling || !now.Before(until)
}

// coolest returns the unused address of the range that was released the longest ago.
func (s *state) coolest(r addrRange) (netip.Addr, bool) {
	var best netip.Addr
	for a, until := range s.Cooling {
		if s.used[a] || !r.contains(a) {
			continue
		}
		if !best.IsValid() || until.Before(s.Cooling[best]) || (until.Equal(s.Cooling[best]) && a.Less(best)) {
			best = a
		}
	}
	return best, best.IsValid()
}

// release ends a pod's allocation and reports whether there was one.
func (s *state) release(uid string, now time.Time) bool {
	rec, ok := s.Pods[uid]
	if !ok {
		return false
	}
	s.forget(uid)
	for a, until := range s.Cooling {
		if !now.Before(until) {
			delete(s.Cooling, a)
		}
	}
	for _, a := range rec.Addrs {
		s.Cooling[a] = now.Add(reuseDelay)
	}
	return true
}

// forget undoes an allocation as if it had never been.
func (s *state) forget(uid string) {
	for _, a := range s.Pods[uid].Addrs {
		delete(s.used, a)
	}
	delete(s.Pods, uid)
}

func (s *state) setRanges(cidrs []netip.Prefix) error {
	var ranges []addrRange
	seen := map[string]bool{}
	for _, c := range cidrs {
		r, err := newRange(c)
		if err != nil {
			return err
		}
		if seen[r.family()] {
			return fmt.Errorf("pod CIDR %s: a node has at most one range of each family", c)
		}
		seen[r.family()] = true
		ranges = append(ranges, r)
	}
	s.ranges = ranges
	return nil
}

// endpoint is what the datapath must know of the pod.
func (r record) endpoint(ifindex int) datapath.Endpoint {
	return datapath.Endpoint{
		ID:        datapath.EndpointID(r.UID),
		Namespace: r.Namespace,
		Name:      r.Name,
		Ifindex:   ifindex,
		IfName:    r.IfName,
		Addrs:     r.Addrs,
		MAC:       podMAC(r.UID),
		HostMAC:   hostMAC(r.UID),
	}
}

// hostIfName fits the kernel's 15 characters. 11 hexadecimal digits make a collision among a node's pods unthinkable.
func hostIfName(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	return ifPrefix + hex.EncodeToString(sum[:])[:11]
}

func podMAC(uid string) netdev.MAC  { return macOf("pod", uid) }
func hostMAC(uid string) netdev.MAC { return macOf("host", uid) }

// macOf derives a locally administered unicast address, so that both ends are known without asking the kernel.
func macOf(side, uid string) netdev.MAC {
	sum := sha256.Sum256([]byte(side + "/" + uid))
	var m netdev.MAC
	copy(m[:], sum[:])
	m[0] = m[0]&^0x01 | 0x02
	return m
}
