// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	flowcontrol "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"

	"skep.dev/skep/controlplane/cert"
	"skep.dev/skep/controlplane/crd"
	"skep.dev/skep/controlplane/ipam"
	"skep.dev/skep/controlplane/rbac"
)

const (
	// repairInterval is how soon a system object that somebody deleted is back.
	repairInterval = 10 * time.Second
	bootstrapRetry = 50 * time.Millisecond
)

// bootstrap makes the objects that every cluster has and that no user creates.
type bootstrap struct {
	client      kubernetes.Interface
	definitions apiextensions.CustomResourceDefinitionInterface
	authority   *cert.Authority
	server      *Server
}

// addBootstrap makes the system objects before the server says that it is ready, and repairs them as long as it runs.
func (s *Server) addBootstrap(server *genericapiserver.GenericAPIServer) error {
	extensions, err := apiextensions.NewForConfig(s.Loopback())
	if err != nil {
		return fmt.Errorf("make the loopback client of custom resources: %w", err)
	}
	b := &bootstrap{
		client: s.client, definitions: extensions.CustomResourceDefinitions(), authority: s.config.Authority, server: s,
	}
	return server.AddPostStartHook("bootstrap-controller", func(hook genericapiserver.PostStartHookContext) error {
		for last := ""; ; {
			err := b.once(hook)
			if err == nil {
				break
			}
			if err.Error() != last {
				last = err.Error()
				s.config.Logger.Warn("make system objects, will retry", "err", err)
			}
			select {
			case <-time.After(bootstrapRetry):
			case <-hook.Done():
				return err
			}
		}
		go b.repair(hook)
		return nil
	})
}

func (b *bootstrap) repair(ctx context.Context) {
	ticker := time.NewTicker(repairInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := b.always(ctx); err != nil && ctx.Err() == nil {
				b.server.config.Logger.Warn("repair system objects", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// once runs at start; some objects may be changed by administrators afterwards and are only created.
func (b *bootstrap) once(ctx context.Context) error {
	if err := b.always(ctx); err != nil {
		return err
	}
	if err := crd.WaitEstablished(ctx, b.definitions); err != nil {
		return err
	}
	if b.server.rbac != nil {
		if err := rbac.Bootstrap(ctx, b.client); err != nil {
			return fmt.Errorf("standard roles: %w", err)
		}
	}
	if b.server.serves("scheduling.k8s.io", "priorityclasses") {
		if err := b.priorityClasses(ctx); err != nil {
			return err
		}
	}
	if b.server.serves("flowcontrol.apiserver.k8s.io", "flowschemas", "prioritylevelconfigurations") {
		return b.flowControl(ctx)
	}
	return nil
}

// always holds at any time.
func (b *bootstrap) always(ctx context.Context) error {
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := ensure(ctx, b.client.CoreV1().Namespaces(), ns); err != nil {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
	}
	if err := crd.Ensure(ctx, b.definitions); err != nil {
		return err
	}
	if err := b.kubernetesService(ctx); err != nil {
		return fmt.Errorf("the kubernetes Service: %w", err)
	}
	if err := b.dnsService(ctx); err != nil {
		return fmt.Errorf("the kube-dns Service: %w", err)
	}
	return b.publishAuthentication(ctx)
}

// client is what ensure needs of a typed client.
type client[T any] interface {
	Get(context.Context, string, metav1.GetOptions) (T, error)
	Create(context.Context, T, metav1.CreateOptions) (T, error)
}

// ensure creates the object unless one of its name exists. It asks the cache first, so that repairing is cheap.
func ensure[T metav1.Object](ctx context.Context, c client[T], obj T) error {
	_, err := c.Get(ctx, obj.GetName(), metav1.GetOptions{ResourceVersion: "0"})
	if !apierrors.IsNotFound(err) {
		return err
	}
	if _, err := c.Create(ctx, obj, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// kubernetesService is how pods find the API. It has the family of the address that this server advertises.
func (b *bootstrap) kubernetesService(ctx context.Context) error {
	advertised := b.server.config.AdvertiseAddress
	prefix, ok := b.serviceRange(advertised)
	if !ok {
		return nil // no Service address could lead there
	}
	ip, err := ipam.Nth(prefix, ipam.KubernetesOffset)
	if err != nil {
		return err
	}
	port, err := b.server.port()
	if err != nil {
		return err
	}
	single := corev1.IPFamilyPolicySingleStack
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip.String(), ClusterIPs: []string{ip.String()},
			IPFamilies: []corev1.IPFamily{familyOf(ip)}, IPFamilyPolicy: &single,
			Ports: []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(port), Protocol: corev1.ProtocolTCP}},
		},
	}
	if err := ensure(ctx, b.client.CoreV1().Services(svc.Namespace), svc); err != nil {
		return err
	}
	if advertised.IsLoopback() {
		return nil // reachable on this machine only, which is no endpoint for pods
	}
	if err := b.endpoints(ctx, advertised, port); err != nil {
		return err
	}
	return b.endpointSlice(ctx, advertised, port)
}

func (b *bootstrap) serviceRange(addr netip.Addr) (netip.Prefix, bool) {
	for _, p := range b.server.config.ServiceCIDRs {
		if p.Addr().Is4() == addr.Is4() {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// endpoints writes the v1 object too: it is deprecated, and old clients still read it.
func (b *bootstrap) endpoints(ctx context.Context, addr netip.Addr, port int32) error {
	//lint:ignore SA1019 old clients read it
	want := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}},
		//lint:ignore SA1019 old clients read it
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: addr.String()}},
			Ports:     []corev1.EndpointPort{{Name: "https", Port: port, Protocol: corev1.ProtocolTCP}},
		}},
	}
	c := b.client.CoreV1().Endpoints(want.Namespace)
	if err := ensure(ctx, c, want); err != nil {
		return err
	}
	got, err := c.Get(ctx, want.Name, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil || equality.Semantic.DeepEqual(got.Subsets, want.Subsets) {
		return err
	}
	got.Subsets = want.Subsets
	_, err = c.Update(ctx, got, metav1.UpdateOptions{})
	return err
}

func (b *bootstrap) endpointSlice(ctx context.Context, addr netip.Addr, port int32) error {
	ready, name, protocol := true, "https", corev1.ProtocolTCP
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressType(familyOf(addr)),
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{addr.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	c := b.client.DiscoveryV1().EndpointSlices(want.Namespace)
	if err := ensure(ctx, c, want); err != nil {
		return err
	}
	got, err := c.Get(ctx, want.Name, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil || got.AddressType == want.AddressType && equality.Semantic.DeepEqual(got.Endpoints, want.Endpoints) &&
		equality.Semantic.DeepEqual(got.Ports, want.Ports) {
		return err
	}
	if got.AddressType != want.AddressType { // which cannot change
		if err := c.Delete(ctx, want.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		_, err = c.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	got.Endpoints, got.Ports = want.Endpoints, want.Ports
	_, err = c.Update(ctx, got, metav1.UpdateOptions{})
	return err
}

// dnsService is the cluster's DNS: one pod on each node answers, and each node asks its own.
func (b *bootstrap) dnsService(ctx context.Context) error {
	var ips []string
	var families []corev1.IPFamily
	for _, p := range b.server.config.ServiceCIDRs {
		ip, err := ipam.Nth(p, ipam.DNSOffset)
		if err != nil {
			return err
		}
		ips, families = append(ips, ip.String()), append(families, familyOf(ip))
	}
	policy, local := corev1.IPFamilyPolicyPreferDualStack, corev1.ServiceInternalTrafficPolicyLocal
	labels := map[string]string{"k8s-app": "kube-dns"}
	return ensure(ctx, b.client.CoreV1().Services(metav1.NamespaceSystem), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-dns", Namespace: metav1.NamespaceSystem,
			Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ips[0], ClusterIPs: ips, IPFamilies: families, IPFamilyPolicy: &policy,
			InternalTrafficPolicy: &local, Selector: labels,
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, TargetPort: intstr.FromInt32(53), Protocol: corev1.ProtocolUDP},
				{Name: "dns-tcp", Port: 53, TargetPort: intstr.FromInt32(53), Protocol: corev1.ProtocolTCP},
			},
		},
	})
}

// publishAuthentication tells aggregated API servers whom to believe; they read this ConfigMap by convention.
func (b *bootstrap) publishAuthentication(ctx context.Context) error {
	list := func(s []string) string {
		data, _ := json.Marshal(s) // strings always encode
		return string(data)
	}
	ca := string(b.authority.CA())
	data := map[string]string{
		"client-ca-file":                     ca,
		"requestheader-client-ca-file":       ca,
		"requestheader-allowed-names":        list([]string{cert.FrontProxyName}),
		"requestheader-username-headers":     list([]string(userHeaders)),
		"requestheader-uid-headers":          list([]string(uidHeaders)),
		"requestheader-group-headers":        list([]string(groupHeaders)),
		"requestheader-extra-headers-prefix": list([]string(extraHeaders)),
	}
	c := b.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	want := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "extension-apiserver-authentication", Namespace: metav1.NamespaceSystem}, Data: data}
	if err := ensure(ctx, c, want); err != nil {
		return fmt.Errorf("publish authentication: %w", err)
	}
	got, err := c.Get(ctx, want.Name, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil || equality.Semantic.DeepEqual(got.Data, data) {
		return err
	}
	got.Data = data
	_, err = c.Update(ctx, got, metav1.UpdateOptions{})
	return err
}

const (
	clusterCritical = 2000000000
	nodeCritical    = 2000001000
)

func (b *bootstrap) priorityClasses(ctx context.Context) error {
	for _, class := range []struct {
		name, description string
		value             int32
	}{
		{"system-cluster-critical", "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.", clusterCritical},
		{"system-node-critical", "Used for system critical pods that must not be moved from their current node.", nodeCritical},
	} {
		err := ensure(ctx, b.client.SchedulingV1().PriorityClasses(), &schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: class.name}, Value: class.value, Description: class.description,
		})
		if err != nil {
			return fmt.Errorf("priority class %s: %w", class.name, err)
		}
	}
	return nil
}

// flowControl makes the priority levels that the library suggests, so that a flood from one kind of client leaves
// room for nodes and for the system.
func (b *bootstrap) flowControl(ctx context.Context) error {
	for _, level := range flowcontrol.SuggestedPriorityLevelConfigurations {
		if err := ensure(ctx, b.client.FlowcontrolV1().PriorityLevelConfigurations(), level.DeepCopy()); err != nil {
			return fmt.Errorf("priority level %s: %w", level.Name, err)
		}
	}
	for _, schema := range flowcontrol.SuggestedFlowSchemas {
		if err := ensure(ctx, b.client.FlowcontrolV1().FlowSchemas(), schema.DeepCopy()); err != nil {
			return fmt.Errorf("flow schema %s: %w", schema.Name, err)
		}
	}
	for _, level := range flowcontrol.MandatoryPriorityLevelConfigurations {
		if err := ensure(ctx, b.client.FlowcontrolV1().PriorityLevelConfigurations(), level.DeepCopy()); err != nil {
			return fmt.Errorf("priority level %s: %w", level.Name, err)
		}
	}
	for _, schema := range flowcontrol.MandatoryFlowSchemas {
		if err := ensure(ctx, b.client.FlowcontrolV1().FlowSchemas(), schema.DeepCopy()); err != nil {
			return fmt.Errorf("flow schema %s: %w", schema.Name, err)
		}
	}
	return nil
}
