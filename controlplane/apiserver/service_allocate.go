// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/ipam"
)

const (
	firstNodePort = 30000
	lastNodePort  = 32767
)

// allocator holds the addresses and node ports of all Services. It is rebuilt from the stored Services before its
// first use.
//
// Rule: a value is taken before the Service that names it is written, and freed after a write that no longer names
// it succeeded. A write with unknown outcome frees nothing until the next start. So no value is ever given twice.
type allocator struct {
	families []corev1.IPFamily
	// list returns every stored Service.
	list func(context.Context) ([]corev1.Service, error)

	// mu guards the fields below. It is held while list runs, which happens once.
	mu        sync.Mutex
	addresses map[corev1.IPFamily]*ipam.Addresses
	ports     *ipam.Ports
}

func newAllocator(cidrs []netip.Prefix, list func(context.Context) ([]corev1.Service, error)) *allocator {
	a := &allocator{list: list}
	for _, p := range cidrs {
		a.families = append(a.families, familyOf(p.Addr()))
	}
	a.addresses = map[corev1.IPFamily]*ipam.Addresses{}
	for _, p := range cidrs {
		a.addresses[familyOf(p.Addr())] = ipam.NewAddresses(p, rand.Uint64)
	}
	return a
}

// load takes what stored Services hold. The caller holds mu.
func (a *allocator) load(ctx context.Context) error {
	if a.ports != nil {
		return nil
	}
	stored, err := a.list(ctx)
	if err != nil {
		return fmt.Errorf("read the addresses in use: %w", err)
	}
	a.ports = ipam.NewPorts(firstNodePort, lastNodePort, rand.Uint64)
	for i := range stored {
		for _, v := range held(&stored[i].Spec) {
			// Taken already, or outside after a change of the ranges: nothing to do about either here.
			_ = a.take(v)
		}
	}
	return nil
}

// holding is one address or one node port.
type holding struct {
	addr netip.Addr
	port uint16
}

// held lists what a Service names.
func held(spec *corev1.ServiceSpec) []holding {
	var all []holding
	for _, ip := range spec.ClusterIPs {
		if addr, err := netip.ParseAddr(ip); err == nil {
			all = append(all, holding{addr: addr})
		}
	}
	for _, p := range spec.Ports {
		if p.NodePort > 0 {
			all = append(all, holding{port: uint16(p.NodePort)})
		}
	}
	if spec.HealthCheckNodePort > 0 {
		all = append(all, holding{port: uint16(spec.HealthCheckNodePort)})
	}
	// One port may serve TCP and UDP of a Service.
	slices.SortFunc(all, func(x, y holding) int {
		if c := x.addr.Compare(y.addr); c != 0 {
			return c
		}
		return int(x.port) - int(y.port)
	})
	return slices.Compact(all)
}

func (a *allocator) take(h holding) error {
	if h.port != 0 {
		return a.ports.Take(h.port)
	}
	pool, ok := a.addresses[familyOf(h.addr)]
	if !ok {
		return ipam.ErrOutside
	}
	return pool.Take(h.addr)
}

func (a *allocator) release(all []holding) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ports == nil {
		return // load will see the state after this
	}
	for _, h := range all {
		if h.port != 0 {
			a.ports.Release(h.port)
		} else if pool, ok := a.addresses[familyOf(h.addr)]; ok {
			pool.Release(h.addr)
		}
	}
}

// allocate fills the Service's addresses and node ports. What it took is returned also beside an error.
func (a *allocator) allocate(ctx context.Context, spec, old *corev1.ServiceSpec) (taken []holding, errs field.ErrorList, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.load(ctx); err != nil {
		return nil, nil, err
	}
	w := &allocation{allocator: a}
	if old != nil {
		w.had = held(old)
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		w.fillAddresses(spec)
	}
	if usesNodePorts(spec) {
		w.fillPorts(spec)
	}
	return w.taken, w.errs, nil
}

// allocation is the work on one Service.
type allocation struct {
	*allocator
	had   []holding
	taken []holding
	errs  field.ErrorList
}

// claim takes a value that the Service names, unless it had it before or took it a moment ago.
func (w *allocation) claim(h holding) error {
	if slices.Contains(w.had, h) || slices.Contains(w.taken, h) {
		return nil
	}
	if err := w.take(h); err != nil {
		return err
	}
	w.taken = append(w.taken, h)
	return nil
}

func (w *allocation) fillAddresses(spec *corev1.ServiceSpec) {
	if isHeadless(spec) {
		spec.ClusterIP = corev1.ClusterIPNone
		return
	}
	path := field.NewPath("spec", "clusterIPs")
	for i, family := range spec.IPFamilies {
		if i < len(spec.ClusterIPs) {
			addr, err := netip.ParseAddr(spec.ClusterIPs[i])
			if err != nil || familyOf(addr) != family {
				return // validation says what is wrong
			}
			if err := w.claim(holding{addr: addr}); err != nil {
				w.errs = append(w.errs, field.Invalid(path, spec.ClusterIPs,
					fmt.Sprintf("failed to allocate IP %s: %s", addr, w.addressProblem(family, err))))
			}
			continue
		}
		pool, ok := w.addresses[family]
		if !ok {
			return
		}
		addr, err := pool.TakeAny()
		if err != nil {
			w.errs = append(w.errs, field.InternalError(path, fmt.Errorf("failed to allocate a serviceIP: %w", err)))
			return
		}
		w.taken = append(w.taken, holding{addr: addr})
		spec.ClusterIPs = append(spec.ClusterIPs, addr.String())
	}
	if len(spec.ClusterIPs) > 0 && spec.ClusterIP == "" {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
}

func (w *allocation) addressProblem(family corev1.IPFamily, err error) string {
	pool, ok := w.addresses[family]
	if errors.Is(err, ipam.ErrOutside) && ok {
		return fmt.Sprintf("the provided network does not match the current range. The range of valid IPs is %s", pool.Prefix())
	}
	return "provided IP is " + err.Error()
}

// fillPorts gives each port a node port; the same number with TCP and UDP shares one.
func (w *allocation) fillPorts(spec *corev1.ServiceSpec) {
	path := field.NewPath("spec", "ports")
	byPort := map[int32][]*corev1.ServicePort{}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.NodePort == 0 {
			continue
		}
		if p.NodePort < 0 || p.NodePort > 65535 {
			return // validation says what is wrong
		}
		if err := w.claim(holding{port: uint16(p.NodePort)}); err != nil {
			w.errs = append(w.errs, field.Invalid(path.Index(i).Child("nodePort"), p.NodePort, w.portProblem(err)))
		}
		byPort[p.Port] = append(byPort[p.Port], p)
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		if n, ok := shareable(byPort[p.Port], p.Protocol); ok {
			p.NodePort = n
		} else if !w.takePort(&p.NodePort, path.Index(i).Child("nodePort")) {
			return
		}
		byPort[p.Port] = append(byPort[p.Port], p)
	}
	local := spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if spec.Type == corev1.ServiceTypeLoadBalancer && local {
		w.fillHealthPort(spec)
	}
}

func (w *allocation) fillHealthPort(spec *corev1.ServiceSpec) {
	path := field.NewPath("spec", "healthCheckNodePort")
	if spec.HealthCheckNodePort == 0 {
		w.takePort(&spec.HealthCheckNodePort, path)
		return
	}
	if spec.HealthCheckNodePort < 0 || spec.HealthCheckNodePort > 65535 {
		return // validation says what is wrong
	}
	if err := w.claim(holding{port: uint16(spec.HealthCheckNodePort)}); err != nil {
		w.errs = append(w.errs, field.Invalid(path, spec.HealthCheckNodePort, w.portProblem(err)))
	}
}

func (w *allocation) takePort(into *int32, path *field.Path) bool {
	port, err := w.ports.TakeAny()
	if err != nil {
		w.errs = append(w.errs, field.InternalError(path, fmt.Errorf("failed to allocate a nodePort: %w", err)))
		return false
	}
	w.taken = append(w.taken, holding{port: port})
	*into = int32(port)
	return true
}

func (w *allocation) portProblem(err error) string {
	if errors.Is(err, ipam.ErrOutside) {
		return fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %s", w.ports)
	}
	return "provided port is " + err.Error()
}

func shareable(users []*corev1.ServicePort, protocol corev1.Protocol) (int32, bool) {
	if len(users) == 0 {
		return 0, false
	}
	for _, u := range users {
		if u.Protocol == protocol || u.NodePort != users[0].NodePort {
			return 0, false
		}
	}
	return users[0].NodePort, true
}

func usesNodePorts(spec *corev1.ServiceSpec) bool {
	switch spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return spec.AllocateLoadBalancerNodePorts == nil || *spec.AllocateLoadBalancerNodePorts || namesNodePort(spec)
	}
	return false
}

func namesNodePort(spec *corev1.ServiceSpec) bool {
	return slices.ContainsFunc(spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort != 0 })
}
