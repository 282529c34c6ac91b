// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/core"
	"skep.dev/skep/controlplane/kinds/fill"
)

// What a slice may hold.
const (
	maxEndpoints = 1000
	maxAddresses = 100
	maxPorts     = 20000
	maxHints     = 8
)

// EndpointSlice is the kind EndpointSlice.
func EndpointSlice() kinds.Kind {
	return kinds.Define(&discoveryv1.EndpointSliceList{}, kinds.Def[*discoveryv1.EndpointSlice]{
		GroupVersion:     discoveryv1.SchemeGroupVersion,
		Kind:             "EndpointSlice",
		Resource:         "endpointslices",
		NoGeneration:     true, // it has one, but labels count: see prepareSliceForUpdate
		Default:          defaultSlice,
		PrepareForCreate: func(_ context.Context, s *discoveryv1.EndpointSlice) { s.Generation = 1 },
		PrepareForUpdate: prepareSliceForUpdate,
		Validate:         validateSlice,
		ValidateUpdate: func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
			return append(validateSlice(s), apivalidation.ValidateImmutableField(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
		},
		Columns: sliceColumns,
		Row: func(s *discoveryv1.EndpointSlice) []any {
			return []any{s.Name, string(s.AddressType), portsLine(s.Ports), endpointsLine(s.Endpoints), kinds.Age(s.CreationTimestamp)}
		},
	})
}

func defaultSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		fill.Nil(&s.Ports[i].Name, "")
		fill.Nil(&s.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// prepareSliceForUpdate counts what proxies act on: the content, and the labels that tie it to a Service.
func prepareSliceForUpdate(_ context.Context, s, old *discoveryv1.EndpointSlice) {
	s.Generation = old.Generation
	if !equality.Semantic.DeepEqual(s.Ports, old.Ports) || !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) ||
		!equality.Semantic.DeepEqual(s.Labels, old.Labels) || s.AddressType != old.AddressType {
		s.Generation++
	}
}

func validateSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	errs := check.OneOf(field.NewPath("addressType"), s.AddressType,
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	path := field.NewPath("endpoints")
	if n := len(s.Endpoints); n > maxEndpoints {
		return append(errs, field.TooMany(path, n, maxEndpoints))
	}
	for i := range s.Endpoints {
		errs = append(errs, validateEndpoint(&s.Endpoints[i], s.AddressType, path.Index(i))...)
	}
	return append(errs, validatePorts(s.Ports, field.NewPath("ports"))...)
}

func validateEndpoint(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("addresses")
	switch n := len(e.Addresses); {
	case n == 0:
		errs = append(errs, field.Required(at, "must contain at least 1 address"))
	case n > maxAddresses:
		errs = append(errs, field.TooMany(at, n, maxAddresses))
	}
	for i, address := range e.Addresses {
		errs = append(errs, validateAddress(address, kind, at.Index(i))...)
	}
	if e.NodeName != nil {
		errs = append(errs, check.Invalid(path.Child("nodeName"), *e.NodeName, validation.IsDNS1123Subdomain(*e.NodeName))...)
	}
	if e.Hostname != nil {
		errs = append(errs, check.Invalid(path.Child("hostname"), *e.Hostname, validation.IsDNS1123Label(*e.Hostname))...)
	}
	if e.Hints != nil {
		if n := len(e.Hints.ForZones); n > maxHints {
			errs = append(errs, field.TooMany(path.Child("hints", "forZones"), n, maxHints))
		}
		for i, zone := range e.Hints.ForZones {
			errs = append(errs, check.Invalid(path.Child("hints", "forZones").Index(i).Child("name"), zone.Name, validation.IsValidLabelValue(zone.Name))...)
		}
	}
	return errs
}

func validateAddress(address string, kind discoveryv1.AddressType, path *field.Path) field.ErrorList {
	if kind == discoveryv1.AddressTypeFQDN {
		return validation.IsFullyQualifiedDomainName(path, address)
	}
	if errs := validation.IsValidIPForLegacyField(path, address, false, nil); len(errs) > 0 {
		return errs
	}
	addr, err := netip.ParseAddr(address)
	switch {
	case err == nil && kind == discoveryv1.AddressTypeIPv4 && !addr.Is4():
		return field.ErrorList{field.Invalid(path, address, "must be an IPv4 address")}
	case err == nil && kind == discoveryv1.AddressTypeIPv6 && addr.Is4():
		return field.ErrorList{field.Invalid(path, address, "must be an IPv6 address")}
	}
	return core.ValidateEndpointIP(address, path)
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if n := len(ports); n > maxPorts {
		return field.ErrorList{field.TooMany(path, n, maxPorts)}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != nil {
			if *p.Name != "" {
				errs = append(errs, check.Invalid(at.Child("name"), *p.Name, validation.IsDNS1123Label(*p.Name))...)
			}
			if names.Has(*p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), *p.Name))
			}
			names.Insert(*p.Name)
		}
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, check.OneOf(at.Child("protocol"), *p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if p.Port != nil {
			errs = append(errs, check.Port(at.Child("port"), *p.Port)...)
		}
		if p.AppProtocol != nil {
			errs = append(errs, check.Invalid(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
		}
	}
	return errs
}

var sliceColumns = []metav1.TableColumnDefinition{
	kinds.NameColumn(),
	kinds.Column("AddressType", "string", discoveryv1.EndpointSlice{}.SwaggerDoc()["addressType"]),
	kinds.Column("Ports", "string", discoveryv1.EndpointSlice{}.SwaggerDoc()["ports"]),
	kinds.Column("Endpoints", "string", discoveryv1.EndpointSlice{}.SwaggerDoc()["endpoints"]),
	kinds.AgeColumn(),
}

const shown = 3

func portsLine(ports []discoveryv1.EndpointPort) string {
	var first []string
	for _, p := range ports[:min(len(ports), shown)] {
		switch {
		case p.Port != nil:
			first = append(first, strconv.Itoa(int(*p.Port)))
		case p.Name != nil && *p.Name != "":
			first = append(first, *p.Name)
		default:
			first = append(first, "*")
		}
	}
	return line(first, len(ports))
}

func endpointsLine(endpoints []discoveryv1.Endpoint) string {
	var first []string
	count := 0
	for _, e := range endpoints {
		for _, address := range e.Addresses {
			if len(first) < shown {
				first = append(first, address)
			}
			count++
		}
	}
	return line(first, count)
}

func line(first []string, count int) string {
	if count == 0 {
		return "<unset>"
	}
	if count > len(first) {
		return fmt.Sprintf("%s + %d more...", strings.Join(first, ","), count-len(first))
	}
	return strings.Join(first, ",")
}
