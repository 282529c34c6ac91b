// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 clients still read and write Endpoints, so they are served.

package core

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/fill"
)

// Endpoints is the kind Endpoints.
func Endpoints() kinds.Kind {
	return kinds.Define(&corev1.EndpointsList{}, kinds.Def[*corev1.Endpoints]{
		GroupVersion:        corev1.SchemeGroupVersion,
		Kind:                "Endpoints",
		Resource:            "endpoints",
		ShortNames:          []string{"ep"},
		StoragePrefix:       "services/endpoints",
		NoGeneration:        true,
		AllowCreateOnUpdate: true,
		Default:             defaultEndpoints,
		Validate:            validateEndpoints,
		Warnings: func(*corev1.Endpoints) []string {
			return []string{"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"}
		},
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Endpoints", "string", corev1.Endpoints{}.SwaggerDoc()["subsets"]),
			kinds.AgeColumn(),
		},
		Row: func(e *corev1.Endpoints) []any {
			return []any{e.Name, endpointsLine(e.Subsets), kinds.Age(e.CreationTimestamp)}
		},
	})
}

func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			fill.Zero(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}

func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i := range e.Subsets {
		s, at := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			errs = append(errs, validateEndpointAddress(&s.Addresses[j], at.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(&s.NotReadyAddresses[j], at.Child("notReadyAddresses").Index(j))...)
		}
		for j, p := range s.Ports {
			errs = append(errs, validateEndpointPort(p, len(s.Ports) > 1, at.Child("ports").Index(j))...)
		}
	}
	return errs
}

func validateEndpointPort(p corev1.EndpointPort, needName bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if needName && p.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else if p.Name != "" {
		errs = append(errs, check.Invalid(path.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))...)
	}
	errs = append(errs, check.Port(path.Child("port"), p.Port)...)
	return append(errs, check.OneOf(path.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
}

func validateEndpointAddress(a *corev1.EndpointAddress, path *field.Path) field.ErrorList {
	errs := validation.IsValidIPForLegacyField(path.Child("ip"), a.IP, false, nil)
	if a.Hostname != "" {
		errs = append(errs, check.Invalid(path.Child("hostname"), a.Hostname, validation.IsDNS1123Label(a.Hostname))...)
	}
	if a.NodeName != nil {
		errs = append(errs, check.Invalid(path.Child("nodeName"), *a.NodeName, validation.IsDNS1123Subdomain(*a.NodeName))...)
	}
	if len(errs) == 0 {
		errs = append(errs, ValidateEndpointIP(a.IP, path.Child("ip"))...)
	}
	return errs
}

// ValidateEndpointIP refuses addresses that traffic must never be sent to on behalf of a Service.
func ValidateEndpointIP(ip string, path *field.Path) field.ErrorList {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return field.ErrorList{field.Invalid(path, ip, "must be a valid IP address")}
	}
	var message string
	switch {
	case addr.IsUnspecified():
		message = "may not be unspecified (" + ip + ")"
	case addr.IsLoopback():
		message = "may not be in the loopback range (127.0.0.0/8, ::1/128)"
	case addr.IsLinkLocalUnicast():
		message = "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
	case addr.IsLinkLocalMulticast():
		message = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
	default:
		return nil
	}
	return field.ErrorList{field.Invalid(path, ip, message)}
}

// endpointsLine shows the first three addresses and how many more there are.
func endpointsLine(subsets []corev1.EndpointSubset) string {
	const shown = 3
	var first []string
	count := 0
	add := func(s string) {
		if len(first) < shown {
			first = append(first, s)
		}
		count++
	}
	for _, s := range subsets {
		for _, a := range s.Addresses {
			if len(s.Ports) == 0 {
				add(a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				add(net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	line := strings.Join(first, ",")
	if count > shown {
		line += " + " + strconv.Itoa(count-shown) + " more..."
	}
	return orNone(line)
}
