// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	noop "go.opentelemetry.io/otel/trace/noop"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"

	ownadmission "skep.dev/skep/controlplane/admission"
	"skep.dev/skep/controlplane/rbac"
)

// assemble builds the three servers, each with the next as its delegate, from one configuration.
func (s *Server) assemble() error {
	t, err := newTypes(s.config.Kinds)
	if err != nil {
		return err
	}
	config, etcd, err := s.genericConfig(t)
	if err != nil {
		return err
	}
	resolver, err := s.serviceResolver()
	if err != nil {
		return err
	}
	auth := webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, s.loopback, noop.NewTracerProvider())
	if err := s.applyAdmission(config, resolver, auth); err != nil {
		return err
	}
	// The head and the tail of the chain get copies, with stores of their own and without the hooks, which
	// must run once.
	tail, err := s.newExtensions(*config, etcd, resolver, auth)
	if err != nil {
		return err
	}
	builtin, err := s.newBuiltin(config, t, tail.GenericAPIServer)
	if err != nil {
		return err
	}
	if err := s.newAggregator(*config, etcd, resolver, builtin, tail); err != nil {
		return err
	}
	// The field managers have their types by now; a document that is asked for gets definitions of its own.
	config.OpenAPIV3Config.Definitions = nil
	s.transport.serve(s.chain.GenericAPIServer.Handler)
	return nil
}

func (s *Server) genericConfig(t *types) (*genericapiserver.Config, *options.EtcdOptions, error) {
	config := genericapiserver.NewConfig(t.codecs)
	var err error
	if err = options.NewServerRunOptions().ApplyTo(config); err != nil {
		return nil, nil, fmt.Errorf("apply server options: %w", err)
	}
	config.PublicAddress = s.config.AdvertiseAddress.AsSlice()
	config.LoopbackClientConfig = s.loopback
	config.MergedResourceConfig = resourceConfig(s.config.Kinds)
	config.LongRunningFunc = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	config.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	if err := s.applyServing(config); err != nil {
		return nil, nil, err
	}
	applyOpenAPI(config, t)
	etcd := newEtcdOptions(s.config.EtcdEndpoints)
	if err := applyStorage(config, etcd, t, s.config.Kinds); err != nil {
		return nil, nil, err
	}
	s.issuer, err = s.newIssuer()
	if err != nil {
		return nil, nil, err
	}
	if err := applyAuthentication(config, s.config.Authority, s.tokenAuthenticator(), s.issuer.Audiences()); err != nil {
		return nil, nil, err
	}
	if err := applyAuthorization(config, s.rbac); err != nil {
		return nil, nil, err
	}
	features := options.NewFeatureOptions()
	features.EnablePriorityAndFairness = s.serves("flowcontrol.apiserver.k8s.io", "flowschemas", "prioritylevelconfigurations")
	if err := features.ApplyTo(config, s.client, s.informers); err != nil {
		return nil, nil, fmt.Errorf("apply features: %w", err)
	}
	return config, etcd, nil
}

// serves tells whether all the named resources of a group are built in.
func (s *Server) serves(group string, resources ...string) bool {
	for _, r := range resources {
		found := false
		for _, k := range s.config.Kinds {
			found = found || groupResource(k) == schema.GroupResource{Group: group, Resource: r}
		}
		if !found {
			return false
		}
	}
	return true
}

func (s *Server) applyServing(config *genericapiserver.Config) error {
	certPEM, err := os.ReadFile(s.config.Serving.CertFile)
	if err != nil {
		return fmt.Errorf("read the serving certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(s.config.Serving.KeyFile)
	if err != nil {
		return fmt.Errorf("read the serving key: %w", err)
	}
	pair, err := dynamiccertificates.NewStaticCertKeyContent("serving", certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("use the serving certificate: %w", err)
	}
	config.SecureServing = &genericapiserver.SecureServingInfo{Listener: s.config.Listener, Cert: pair}
	return nil
}

// serviceResolver finds a ready endpoint of a Service in the server's own caches, so that webhooks and aggregated
// APIs need no Service datapath where the server runs.
func (s *Server) serviceResolver() (aggregatorapiserver.ServiceResolver, error) {
	slices, err := proxy.NewEndpointSliceIndexerGetter(s.informers.Discovery().V1().EndpointSlices())
	if err != nil {
		return nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	return aggregatorapiserver.NewEndpointServiceResolver(s.informers.Core().V1().Services().Lister(), slices), nil
}

// policyPlugins need the kinds of admissionregistration.k8s.io: without them their caches would never fill and
// the server would never be ready.
var policyPlugins = []string{"MutatingAdmissionPolicy", "MutatingAdmissionWebhook", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook"}

// escalationPlugin judges last, when mutation is over.
const escalationPlugin = "RBACEscalation"

func (s *Server) applyAdmission(config *genericapiserver.Config, resolver webhook.ServiceResolver, auth webhook.AuthenticationInfoResolverWrapper) error {
	o := options.NewAdmissionOptions()
	ownadmission.Register(o.Plugins)
	// Ours come after the check of the namespace and before webhooks and policies, which judge the whole object.
	o.RecommendedPluginOrder = slices.Insert(o.RecommendedPluginOrder, 1, ownadmission.Order()...)
	for plugin, gr := range ownadmission.Needs() {
		if !s.serves(gr.Group, gr.Resource) {
			o.DisablePlugins = append(o.DisablePlugins, plugin)
		}
	}
	if s.rbac != nil {
		o.Plugins.Register(escalationPlugin, func(io.Reader) (admission.Interface, error) {
			return rbac.NewEscalationCheck(s.rbac, config.Authorization.Authorizer), nil
		})
		o.RecommendedPluginOrder = append(o.RecommendedPluginOrder, escalationPlugin)
	}
	if !s.serves("admissionregistration.k8s.io", "validatingadmissionpolicies", "validatingadmissionpolicybindings",
		"mutatingadmissionpolicies", "mutatingadmissionpolicybindings", "validatingwebhookconfigurations", "mutatingwebhookconfigurations") {
		o.DisablePlugins = append(o.DisablePlugins, policyPlugins...)
	}
	dyn, err := dynamic.NewForConfig(s.loopback)
	if err != nil {
		return fmt.Errorf("make the dynamic loopback client: %w", err)
	}
	initializers := []admission.PluginInitializer{webhookinit.NewPluginInitializer(auth, resolver)}
	if err := o.ApplyTo(config, s.informers, s.client, dyn, config.FeatureGate, config.EffectiveVersion, initializers...); err != nil {
		return fmt.Errorf("set up admission: %w", err)
	}
	return nil
}

// newExtensions is the tail of the chain: custom resources, and 404 for what nobody knows.
func (s *Server) newExtensions(config genericapiserver.Config, etcd *options.EtcdOptions, resolver webhook.ServiceResolver,
	auth webhook.AuthenticationInfoResolverWrapper) (*apiextensions.CustomResourceDefinitions, error) {
	config.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	crds := crdoptions.NewCRDRESTOptionsGetter(*etcd, config.ResourceTransformers, config.StorageObjectCountTracker)
	config.RESTOptionsGetter = foreignStorage(&config, etcd, apiextensions.Codecs.LegacyCodec(apiextensionsv1.SchemeGroupVersion))
	c := apiextensions.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: config, SharedInformerFactory: s.informers},
		ExtraConfig: apiextensions.ExtraConfig{
			CRDRESTOptionsGetter: crds, MasterCount: 1, ServiceResolver: resolver, AuthResolverWrapper: auth,
		},
	}
	server, err := c.Complete().New(genericapiserver.NewEmptyDelegateWithCustomHandler(http.NotFoundHandler()))
	if err != nil {
		return nil, fmt.Errorf("set up custom resources: %w", err)
	}
	return server, nil
}

// newBuiltin is the middle of the chain: the kinds of the list.
func (s *Server) newBuiltin(config *genericapiserver.Config, t *types, next genericapiserver.DelegationTarget) (*genericapiserver.GenericAPIServer, error) {
	config.SkipOpenAPIInstallation = true // documents take its place
	server, err := config.Complete(s.informers).New("skep", next)
	if err != nil {
		return nil, fmt.Errorf("set up built-in kinds: %w", err)
	}
	newDocuments(server.Handler.GoRestfulContainer, config.OpenAPIConfig, config.OpenAPIV3Config).install(server.Handler.NonGoRestfulMux)
	s.registrar = &registrar{
		types:        t,
		resources:    map[schema.GroupResource]*resource{},
		storage:      map[schema.GroupVersion]map[string]rest.Storage{},
		serviceCIDRs: s.config.ServiceCIDRs,
		server:       s,
	}
	if err := s.registrar.serve(s.config.Kinds, config.RESTOptionsGetter); err != nil {
		return nil, err
	}
	s.addReviews(s.registrar, config.Authentication.Authenticator,
		&authorizationReviews{authorizer: config.Authorization.Authorizer, rules: config.RuleResolver})
	groups := groupInfos(t, s.registrar.storage)
	core := slices.IndexFunc(groups, func(g *genericapiserver.APIGroupInfo) bool { return g.PrioritizedVersions[0].Group == "" })
	if core >= 0 {
		if err := server.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, groups[core]); err != nil {
			return nil, fmt.Errorf("install core/v1: %w", err)
		}
		groups = slices.Delete(groups, core, core+1)
	}
	if err := server.InstallAPIGroups(groups...); err != nil {
		return nil, fmt.Errorf("install API groups: %w", err)
	}
	return server, nil
}

func groupInfos(t *types, storage map[schema.GroupVersion]map[string]rest.Storage) []*genericapiserver.APIGroupInfo {
	byGroup := map[string]*genericapiserver.APIGroupInfo{}
	var order []string
	for gv, paths := range storage {
		info, ok := byGroup[gv.Group]
		if !ok {
			made := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, t.scheme, t.params, t.codecs)
			info = &made
			byGroup[gv.Group] = info
			order = append(order, gv.Group)
		}
		info.VersionedResourcesStorageMap[gv.Version] = paths
	}
	slices.Sort(order)
	var infos []*genericapiserver.APIGroupInfo
	for _, group := range order {
		infos = append(infos, byGroup[group])
	}
	return infos
}

// newAggregator is the head of the chain. It merges discovery and OpenAPI of all parts.
func (s *Server) newAggregator(config genericapiserver.Config, etcd *options.EtcdOptions, resolver aggregatorapiserver.ServiceResolver,
	next *genericapiserver.GenericAPIServer, extensions *apiextensions.CustomResourceDefinitions) error {
	proxyClient, err := s.config.Authority.FrontProxy()
	if err != nil {
		return err
	}
	config.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	config.SkipOpenAPIInstallation = true
	config.RESTOptionsGetter = foreignStorage(&config, etcd, aggregatorscheme.Codecs.LegacyCodec(apiregistrationv1.SchemeGroupVersion))
	c := aggregatorapiserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: config, SharedInformerFactory: s.informers},
		ExtraConfig: aggregatorapiserver.ExtraConfig{
			ProxyClientCertFile: proxyClient.CertFile, ProxyClientKeyFile: proxyClient.KeyFile,
			ServiceResolver: resolver, RejectForwardingRedirects: true,
		},
	}
	server, err := c.Complete().NewWithDelegate(next)
	if err != nil {
		return fmt.Errorf("set up aggregation: %w", err)
	}
	// Requests have been waited for by then; what is left are watches, which no client minds to start again. The
	// default of 60 seconds waits for those, too.
	server.GenericAPIServer.ShutdownTimeout = 2 * time.Second
	if err := s.registerAPIServices(server, extensions); err != nil {
		return err
	}
	if err := s.serveDiscovery(server.GenericAPIServer); err != nil {
		return err
	}
	if err := s.addBootstrap(server.GenericAPIServer); err != nil {
		return err
	}
	prepared, err := server.PrepareRun()
	if err != nil {
		return fmt.Errorf("prepare to serve: %w", err)
	}
	s.chain = &aggregator{APIAggregator: server, run: prepared.Run}
	return nil
}
