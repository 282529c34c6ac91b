// SPDX-License-Identifier: Apache-2.0

// Package served lists what resources the API server has, in the form that controllers over all kinds need.
package served

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// Resource is one resource in its preferred version.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
	Verbs      metav1.Verbs
}

// Can reports whether all the verbs are served.
func (r *Resource) Can(verbs ...string) bool {
	return !slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(r.Verbs, v) })
}

// Catalog is everything that is served.
type Catalog struct {
	// Preferred has each resource once, sorted by group and name.
	Preferred []Resource
	// Kinds finds a resource by kind, in every served version.
	Kinds map[schema.GroupVersionKind]Resource
	// Failed are group versions that could not be asked, such as those of an aggregated server that is down.
	Failed map[schema.GroupVersion]error
}

// Read asks the API server. The error is nil if a part is missing; Failed says which.
func Read(client discovery.DiscoveryInterface) (*Catalog, error) {
	groups, lists, err := client.ServerGroupsAndResources()
	c := &Catalog{Kinds: map[schema.GroupVersionKind]Resource{}, Failed: map[schema.GroupVersion]error{}}
	if failed, partial := discovery.GroupDiscoveryFailedErrorGroups(err); partial {
		c.Failed = failed
	} else if err != nil {
		return nil, fmt.Errorf("read which resources are served: %w", err)
	}
	byVersion := map[string]*metav1.APIResourceList{}
	for _, list := range lists {
		byVersion[list.GroupVersion] = list
	}
	for _, group := range groups {
		c.addGroup(group, byVersion)
	}
	slices.SortFunc(c.Preferred, func(a, b Resource) int {
		return slices.Compare([]string{a.Group, a.Resource}, []string{b.Group, b.Resource})
	})
	return c, nil
}

func (c *Catalog) addGroup(group *metav1.APIGroup, byVersion map[string]*metav1.APIResourceList) {
	seen := map[string]bool{}
	versions := append([]metav1.GroupVersionForDiscovery{group.PreferredVersion}, group.Versions...)
	for _, version := range versions {
		list := byVersion[version.GroupVersion]
		if list == nil {
			continue
		}
		for _, r := range list.APIResources {
			if isSubresource(r.Name) {
				continue
			}
			gv := schema.GroupVersion{Group: group.Name, Version: version.Version}
			resource := Resource{GroupVersionResource: gv.WithResource(r.Name), Kind: r.Kind, Namespaced: r.Namespaced, Verbs: r.Verbs}
			if _, known := c.Kinds[gv.WithKind(r.Kind)]; !known {
				c.Kinds[gv.WithKind(r.Kind)] = resource
			}
			if !seen[r.Name] {
				seen[r.Name] = true
				c.Preferred = append(c.Preferred, resource)
			}
		}
	}
}

func isSubresource(name string) bool { return slices.Contains([]byte(name), '/') }
