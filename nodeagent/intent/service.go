// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"skep.dev/skep/datapath"
)

// serviceIndex keeps Services with their slices and translates those that changed.
type serviceIndex struct {
	node     string
	services map[string]*corev1.Service                       // namespace/name
	slices   map[string]map[string]*discoveryv1.EndpointSlice // namespace/service, slice name
	built    map[string][]datapath.Service
}

func newServiceIndex(node string) *serviceIndex {
	return &serviceIndex{
		node:     node,
		services: map[string]*corev1.Service{},
		slices:   map[string]map[string]*discoveryv1.EndpointSlice{},
		built:    map[string][]datapath.Service{},
	}
}

// SetService adds or replaces a Service and reports whether Services may differ.
func (c *Cluster) SetService(obj *corev1.Service) bool {
	ix, key := c.services, obj.Namespace+"/"+obj.Name
	if old := ix.services[key]; old != nil && apiequality.Semantic.DeepEqual(old.Spec, obj.Spec) {
		return false
	}
	ix.services[key] = obj
	ix.rebuild(key)
	return true
}

// DeleteService forgets a Service and reports whether it was known.
func (c *Cluster) DeleteService(namespace, name string) bool {
	ix, key := c.services, namespace+"/"+name
	if ix.services[key] == nil {
		return false
	}
	delete(ix.services, key)
	ix.rebuild(key)
	return true
}

// SetEndpointSlice adds or replaces a slice and reports whether Services may differ. A slice may change its Service.
func (c *Cluster) SetEndpointSlice(obj *discoveryv1.EndpointSlice) bool {
	ix, key := c.services, sliceOwner(obj)
	if old := ix.slices[key][obj.Name]; old != nil && sameSlice(old, obj) {
		return false
	}
	if key == "" {
		return false
	}
	if ix.slices[key] == nil {
		ix.slices[key] = map[string]*discoveryv1.EndpointSlice{}
	}
	ix.slices[key][obj.Name] = obj
	ix.rebuild(key)
	return ix.services[key] != nil
}

// DeleteEndpointSlice forgets a slice and reports whether Services may differ.
func (c *Cluster) DeleteEndpointSlice(obj *discoveryv1.EndpointSlice) bool {
	ix, key := c.services, sliceOwner(obj)
	if ix.slices[key][obj.Name] == nil {
		return false
	}
	delete(ix.slices[key], obj.Name)
	if len(ix.slices[key]) == 0 {
		delete(ix.slices, key)
	}
	ix.rebuild(key)
	return ix.services[key] != nil
}

// Services renders all frontends of the cluster, ordered by Service, family and port.
func (c *Cluster) Services() []datapath.Service {
	var out []datapath.Service
	for _, key := range slices.Sorted(maps.Keys(c.services.built)) {
		out = append(out, c.services.built[key]...)
	}
	return out
}

func (ix *serviceIndex) rebuild(key string) {
	svc := ix.services[key]
	if svc == nil {
		delete(ix.built, key)
		return
	}
	var list []*discoveryv1.EndpointSlice
	for _, name := range slices.Sorted(maps.Keys(ix.slices[key])) {
		list = append(list, ix.slices[key][name])
	}
	built := translateService(svc, list, ix.node)
	if len(built) == 0 {
		delete(ix.built, key)
		return
	}
	ix.built[key] = built
}

// translateService decides what one Service looks like on a node. Headless and ExternalName Services have no frontend.
func translateService(svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice, node string) []datapath.Service {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var out []datapath.Service
	for _, ip := range clusterIPs(&svc.Spec) {
		for _, port := range svc.Spec.Ports {
			proto, ok := protocolOf(port.Protocol)
			if !ok {
				continue
			}
			s := datapath.Service{
				ID:              serviceID(svc, port, ip),
				Frontend:        datapath.Frontend{Addr: ip, Port: uint16(port.Port), Protocol: proto},
				LocalOnly:       svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
				AffinityTimeout: affinityTimeout(&svc.Spec),
			}
			s.Backends = chooseBackends(candidates(endpoints, port, ip.Is4(), node), s.LocalOnly)
			out = append(out, s)
		}
	}
	return out
}

func serviceID(svc *corev1.Service, port corev1.ServicePort, ip netip.Addr) datapath.ServiceID {
	family := corev1.IPv6Protocol
	if ip.Is4() {
		family = corev1.IPv4Protocol
	}
	name := cmp.Or(port.Name, strconv.Itoa(int(port.Port)))
	return datapath.ServiceID(fmt.Sprintf("%s/%s:%s/%s", svc.Namespace, svc.Name, name, family))
}

func clusterIPs(spec *corev1.ServiceSpec) []netip.Addr {
	list := spec.ClusterIPs
	if len(list) == 0 {
		list = []string{spec.ClusterIP}
	}
	var out []netip.Addr
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil { // "None" and "" are no addresses
			out = append(out, a.Unmap())
		}
	}
	return out
}

func affinityTimeout(spec *corev1.ServiceSpec) time.Duration {
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
	if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

// candidate is an endpoint that may become a backend.
type candidate struct {
	datapath.Backend
	ready, draining bool
}

// candidates lists the endpoints of one port and family once each. Several slices may name the same endpoint while
// they are rebalanced; it is as ready as the readiest says.
func candidates(endpoints []*discoveryv1.EndpointSlice, port corev1.ServicePort, v4 bool, node string) []candidate {
	found := map[netip.AddrPort]candidate{}
	for _, sl := range endpoints {
		if (sl.AddressType == discoveryv1.AddressTypeIPv4) != v4 || sl.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		number, ok := slicePort(sl, port)
		if !ok {
			continue
		}
		for _, ep := range sl.Endpoints {
			if len(ep.Addresses) == 0 {
				continue
			}
			addr, err := netip.ParseAddr(ep.Addresses[0]) // the API gives further addresses no meaning
			if err != nil {
				continue
			}
			at := netip.AddrPortFrom(addr.Unmap(), number)
			c := found[at]
			c.Backend = datapath.Backend{Addr: at.Addr(), Port: number, Local: c.Local || (ep.NodeName != nil && *ep.NodeName == node)}
			c.ready = c.ready || isTrue(ep.Conditions.Ready, true)
			c.draining = c.draining || (isTrue(ep.Conditions.Serving, false) && isTrue(ep.Conditions.Terminating, false))
			found[at] = c
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b candidate) int {
		return cmp.Or(a.Addr.Compare(b.Addr), int(a.Port)-int(b.Port))
	})
}

// chooseBackends takes the ready endpoints, or if there is none those that still serve while they terminate. With
// localOnly the choice is made among this node's endpoints alone.
func chooseBackends(all []candidate, localOnly bool) []datapath.Backend {
	var ready, draining []datapath.Backend
	for _, c := range all {
		switch {
		case localOnly && !c.Local:
		case c.ready:
			ready = append(ready, c.Backend)
		case c.draining:
			draining = append(draining, c.Backend)
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return draining
}

// slicePort finds the slice's port that belongs to the Service's: by name, which is what links the two.
func slicePort(sl *discoveryv1.EndpointSlice, port corev1.ServicePort) (uint16, bool) {
	for _, p := range sl.Ports {
		name, proto := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		if p.Port != nil && name == port.Name && proto == cmp.Or(port.Protocol, corev1.ProtocolTCP) {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func sliceOwner(sl *discoveryv1.EndpointSlice) string {
	name := sl.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		return ""
	}
	return sl.Namespace + "/" + name
}

func sameSlice(a, b *discoveryv1.EndpointSlice) bool {
	return a.AddressType == b.AddressType && apiequality.Semantic.DeepEqual(a.Ports, b.Ports) && apiequality.Semantic.DeepEqual(a.Endpoints, b.Endpoints)
}

func isTrue(b *bool, absent bool) bool {
	if b == nil {
		return absent
	}
	return *b
}
