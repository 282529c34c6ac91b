// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilopenapi "k8s.io/apiserver/pkg/util/openapi"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"

	"skep.dev/skep/controlplane/openapi"
)

func applyOpenAPI(config *genericapiserver.Config, t *types) {
	definitions := utilopenapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(openapi.GetOpenAPIDefinitions)
	namer := openapinamer.NewDefinitionNamer(t.scheme, apiextensions.Scheme, aggregatorscheme.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	config.OpenAPIConfig.Info.Title = "Kubernetes"
	config.OpenAPIConfig.GetOperationIDAndTagsFromRoute = operation
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	config.OpenAPIV3Config.Info.Title = "Kubernetes"
	config.OpenAPIV3Config.GetOperationIDAndTagsFromRoute = operation
}

// operation names the operation of a route. It is what the library would do, with a closure in the configuration that
// keeps the definitions of the first document for ever.
func operation(route common.Route) (id string, tags []string, err error) {
	adapted, ok := route.(*restfuladapter.RouteAdapter)
	if !ok {
		return "", nil, fmt.Errorf("a %T has no operation", route)
	}
	return openapinamer.GetOperationIDAndTags(adapted.Route)
}
