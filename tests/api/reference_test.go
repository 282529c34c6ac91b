// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	certutil "k8s.io/client-go/util/cert"
)

// backend is a TLS server behind a Service whose EndpointSlice is made by hand, on an address that only this test's own network
// namespace knows. No Service address leads anywhere here.
type backend struct {
	ns string
	ca []byte
	// ready changes whether the endpoint is offered.
	ready func(bool)
}

const referencePort = 8443

// startBackend serves handler as the Service named name. Clients of the aggregation layer have certificates; those of webhooks have none.
func startBackend(t *testing.T, ns, name string, handler http.HandlerFunc) backend {
	t.Helper()
	certificate, key, err := certutil.GenerateSelfSignedCertKey(name+"."+ns+".svc", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(nodeAddress, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler},
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: frontProxies(t)}}
	server.StartTLS()
	t.Cleanup(server.Close)

	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Ports: []corev1.ServicePort{{Name: "other", Port: 80}, {Name: "hook", Port: referencePort, TargetPort: intstr.FromInt32(1)}}}}
	if _, err := shared.client.CoreV1().Services(ns).Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	port, other, nobody := int32(l.Addr().(*net.TCPAddr).Port), "other", int32(1)
	hook, yes, no := "hook", true, false
	slices := shared.client.DiscoveryV1().EndpointSlices(ns)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		// The second would not answer.
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{nodeAddress}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}},
			{Addresses: []string{"192.0.2.200"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}},
		},
		Ports: []discoveryv1.EndpointPort{{Name: &other, Port: &nobody}, {Name: &hook, Port: &port}},
	}
	if slice, err = slices.Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return backend{ns: ns, ca: certificate, ready: func(ready bool) {
		t.Helper()
		slice.Endpoints[0].Conditions.Ready = &ready
		if slice, err = slices.Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}}
}

// frontProxies is the CA of the server's own client certificate, as extensions learn it.
func frontProxies(t *testing.T) *x509.CertPool {
	t.Helper()
	published, err := shared.client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(published.Data["requestheader-client-ca-file"])) {
		t.Fatalf("no CA in %v", published.Data)
	}
	return pool
}

// TestAWebhookIsFoundByItsService names the Service and a path: the server finds a ready endpoint and the port by its name.
func TestAWebhookIsFoundByItsService(t *testing.T) {
	ownNetwork(t)
	ns := namespace(t)
	b := startBackend(t, ns, "judge", judge)
	path, port, fail, none, exact := "/judge", int32(referencePort), admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Exact
	hooks := shared.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err := hooks.Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "judge.test.skep.dev", AdmissionReviewVersions: []string{"v1"}, SideEffects: &none, FailurePolicy: &fail, MatchPolicy: &exact,
			ClientConfig:      admissionregistrationv1.WebhookClientConfig{CABundle: b.ca, Service: &admissionregistrationv1.ServiceReference{Namespace: ns, Name: "judge", Path: &path, Port: &port}},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: ns}},
			Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hooks.Delete(context.Background(), ns, metav1.DeleteOptions{}) })
	maps := shared.client.CoreV1().ConfigMaps(ns)
	create := func(name string) error {
		_, err := maps.Create(t.Context(), configMap(name, nil), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	eventually(t, "the webhook's verdict", func() bool {
		err := create("bad")
		return err != nil && strings.Contains(err.Error(), `admission webhook "judge.test.skep.dev" denied the request: bad is not good`)
	})
	for i := range 20 { // the endpoint that is not ready would be chosen some time
		if err := create(fmt.Sprint("good-", i)); err != nil {
			t.Fatal(err)
		}
	}
	b.ready(false)
	eventually(t, "a refusal without endpoints", func() bool {
		err := create("good")
		return err != nil && strings.Contains(err.Error(), `no endpoints available for service "judge"`)
	})
	b.ready(true)
	eventually(t, "the webhook's return", func() bool { return create("good") == nil })
}

// judge lets good objects pass.
func judge(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil || r.URL.Path != "/judge" {
		http.Error(w, fmt.Sprint(r.URL, err), http.StatusBadRequest)
		return
	}
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: strings.HasPrefix(review.Request.Name, "good")}
	if !review.Response.Allowed {
		review.Response.Result = &metav1.Status{Message: review.Request.Name + " is not good"}
	}
	_ = json.NewEncoder(w).Encode(review)
}

// TestAnAPIIsServedByItsService aggregates an API: it is discovered, gets its requests with the caller's name, and is away when its
// Service has no endpoint.
func TestAnAPIIsServedByItsService(t *testing.T) {
	ownNetwork(t)
	ns := namespace(t)
	const group = "/apis/hive.test.skep.dev/v1"
	b := startBackend(t, ns, "hive", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.TLS.PeerCertificates == nil:
			http.Error(w, "anybody could be asking", http.StatusUnauthorized)
		case r.URL.Path == group:
			fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"hive.test.skep.dev/v1","resources":[{"name":"bees","singularName":"bee","namespaced":false,"kind":"Bee","verbs":["get"]}]}`)
		default:
			_ = json.NewEncoder(w).Encode(tree{"kind": "Bee", "path": r.URL.RequestURI(), "user": r.Header.Get("X-Remote-User"), "groups": r.Header["X-Remote-Group"]})
		}
	})
	service := object("apiregistration.k8s.io/v1", "APIService", "", "v1.hive.test.skep.dev")
	service["spec"] = tree{"group": "hive.test.skep.dev", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 10, "caBundle": b.ca,
		"service": tree{"namespace": ns, "name": "hive", "port": referencePort}}
	const services = "/apis/apiregistration.k8s.io/v1/apiservices"
	post(t, services, service, http.StatusCreated)
	t.Cleanup(func() {
		_ = shared.client.RESTClient().Delete().AbsPath(services + "/v1.hive.test.skep.dev").Do(context.Background()).Error()
	})
	ask := func() (int, []byte) { return call(t, shared.config, http.MethodGet, group+"/bees/maja?a=b", nil, nil) }
	var answer struct {
		Path, User string
		Groups     []string
	}
	eventually(t, "the aggregated API", func() bool {
		code, body := ask()
		return code == http.StatusOK && json.Unmarshal(body, &answer) == nil
	})
	if answer.Path != group+"/bees/maja?a=b" || answer.User == "" || !strings.Contains(strings.Join(answer.Groups, " "), "system:masters") {
		t.Errorf("the backend saw %+v", answer)
	}
	eventually(t, "its discovery", func() bool {
		out, err := ctl(t, "", "api-resources --api-group=hive.test.skep.dev -o name")
		return err == nil && strings.TrimSpace(out) == "bees.hive.test.skep.dev"
	})
	newAccount(t, ns, "stranger")
	token, err := requestToken(t, ns, "stranger", authenticationv1.TokenRequestSpec{})
	if err != nil {
		t.Fatal(err)
	}
	if code, body := call(t, withToken(token), http.MethodGet, group+"/bees/maja", nil, nil); code != http.StatusForbidden {
		t.Errorf("a caller without rights: %d %s", code, body)
	}
	b.ready(false)
	eventually(t, "503 without endpoints", func() bool {
		code, _ := ask()
		return code == http.StatusServiceUnavailable
	})
}
