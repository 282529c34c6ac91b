// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"reflect"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilopenapi "k8s.io/apiserver/pkg/util/openapi"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	"k8s.io/kube-openapi/pkg/common"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/openapi"
)

func applyOpenAPI(config *genericapiserver.Config, t *types, list []kinds.Kind) {
	definitions := utilopenapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(servedDefinitions(t.scheme, list))
	namer := openapinamer.NewDefinitionNamer(t.scheme, apiextensions.Scheme, aggregatorscheme.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	config.OpenAPIConfig.Info.Title = "Kubernetes"
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	config.OpenAPIV3Config.Info.Title = "Kubernetes"
}

// servedDefinitions leaves out what no served type refers to: definitions are the largest part of an idle server.
func servedDefinitions(scheme *runtime.Scheme, list []kinds.Kind) common.GetOpenAPIDefinitions {
	versions := map[schema.GroupVersion]bool{
		authenticationv1.SchemeGroupVersion: true, authorizationv1.SchemeGroupVersion: true, autoscalingv1.SchemeGroupVersion: true,
	}
	for _, k := range list {
		versions[k.GroupVersionKind.GroupVersion()] = true
	}
	var roots []string
	for gv := range versions {
		for _, t := range scheme.KnownTypes(gv) {
			if named, ok := reflect.New(t).Elem().Interface().(interface{ OpenAPIModelName() string }); ok {
				roots = append(roots, named.OpenAPIModelName())
			}
		}
	}
	for _, s := range []*runtime.Scheme{apiextensions.Scheme, aggregatorscheme.Scheme} {
		for _, t := range s.AllKnownTypes() {
			if named, ok := reflect.New(t).Elem().Interface().(interface{ OpenAPIModelName() string }); ok {
				roots = append(roots, named.OpenAPIModelName())
			}
		}
	}
	return func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		all := openapi.GetOpenAPIDefinitions(ref)
		from := slices.Clone(roots)
		for name := range all {
			// Any document may refer to these: list and delete options, patches, the version.
			if strings.HasPrefix(name, "io.k8s.apimachinery.") {
				from = append(from, name)
			}
		}
		return reachable(all, from)
	}
}

func reachable(all map[string]common.OpenAPIDefinition, roots []string) map[string]common.OpenAPIDefinition {
	kept := map[string]common.OpenAPIDefinition{}
	for len(roots) > 0 {
		name := roots[len(roots)-1]
		roots = roots[:len(roots)-1]
		if _, done := kept[name]; done {
			continue
		}
		if d, ok := all[name]; ok {
			kept[name] = d
			roots = append(roots, d.Dependencies...)
		}
	}
	return kept
}

// Settle lets go of what only start-up needs. It may be called once the server is ready.
func (s *Server) Settle() {
	// The documents are built and the field managers have their types; nothing reads the definitions again.
	s.openapi.Definitions = nil
}
