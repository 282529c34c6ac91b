// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

func TestCorefile(t *testing.T) {
	for _, tc := range []struct {
		name      string
		config    Config
		has, lack []string
	}{
		{"without upstream only the cluster's zones are served", Config{}, []string{"cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {"}, []string{"forward", "fallthrough", "bind"}},
		{"an upstream gets everything else", Config{Upstream: []string{"192.0.2.53", "/etc/resolv.conf"}}, []string{".:53 {", "forward . 192.0.2.53 /etc/resolv.conf {", "fallthrough in-addr.arpa ip6.arpa"}, nil},
		{"one address can be bound", Config{Listen: "127.0.0.1:5353", Domain: "example"}, []string{"example:5353 ", "bind 127.0.0.1"}, []string{"cluster.local"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw, err := tc.config.corefile()
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.has {
				if !strings.Contains(string(raw), want) {
					t.Errorf("no %q in\n%s", want, raw)
				}
			}
			for _, bad := range tc.lack {
				if strings.Contains(string(raw), bad) {
					t.Errorf("%q in\n%s", bad, raw)
				}
			}
		})
	}
}

func TestValidateRefusesWhatWouldChangeTheConfiguration(t *testing.T) {
	for _, c := range []Config{{Domain: "x {"}, {Listen: "53"}, {Upstream: []string{"a\nlog"}}, {Kubeconfig: "{$HOME}"}} {
		if c.Validate() == nil {
			t.Errorf("%+v accepted", c)
		}
	}
}

// fakeAPI serves one Service with an address, one headless one, and watches in which nothing happens.
func fakeAPI(t *testing.T) *httptest.Server {
	meta := metav1.ListMeta{ResourceVersion: "1"}
	object := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: "1"}
	}
	port := []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}
	endpoints := discoveryv1.EndpointSlice{
		ObjectMeta:  object("db-1"),
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.9"}}},
	}
	endpoints.Labels = map[string]string{discoveryv1.LabelServiceName: "db"}
	lists := map[string]any{
		"/api/v1/namespaces": corev1.NamespaceList{ListMeta: meta, Items: []corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop", ResourceVersion: "1"}}}},
		"/api/v1/services": corev1.ServiceList{ListMeta: meta, Items: []corev1.Service{
			{ObjectMeta: object("web"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7"}, Ports: port}},
			{ObjectMeta: object("db"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None", ClusterIPs: []string{"None"}, Ports: port}},
		}},
		"/apis/discovery.k8s.io/v1/endpointslices": discoveryv1.EndpointSliceList{ListMeta: meta, Items: []discoveryv1.EndpointSlice{endpoints}},
	}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list, ok := lists[r.URL.Path]
		w.Header().Set("Content-Type", "application/json")
		switch {
		case !ok:
			http.NotFound(w, r)
		case r.URL.Query().Get("sendInitialEvents") != "": // an old API server: the client lists instead
			w.WriteHeader(http.StatusUnprocessableEntity)
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: metav1.StatusReasonInvalid, Code: 422})
		case r.URL.Query().Get("watch") != "":
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			_ = json.NewEncoder(w).Encode(list)
		}
	}))
}

func writeKubeconfig(t *testing.T, server string) string {
	config := api.NewConfig()
	config.Clusters["c"] = &api.Cluster{Server: server}
	config.AuthInfos["u"] = &api.AuthInfo{}
	config.Contexts["x"] = &api.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func waitFor(t *testing.T, url string) {
	for range 1000 {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s never answered", url)
}

// waitForListener bridges the moment between the readiness page, which is up first, and the listeners.
func waitForListener(t *testing.T, address string) {
	for range 1000 {
		if _, _, err := new(mdns.Client).Exchange(new(mdns.Msg).SetQuestion("example.org.", mdns.TypeA), address); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nothing answers at %s", address)
}

func TestAnswersFromItsLastSnapshotWhenTheAPIIsGone(t *testing.T) {
	server := fakeAPI(t)
	c := Config{Listen: freeAddress(t), Health: freeAddress(t), Ready: freeAddress(t), Kubeconfig: writeKubeconfig(t, server.URL)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	waitFor(t, "http://"+c.Ready+"/ready")
	waitForListener(t, c.Listen)
	check := func(when string) {
		for _, tc := range []struct {
			name  string
			qtype uint16
			want  string
		}{
			{"web.shop.svc.cluster.local.", mdns.TypeA, "10.96.0.7"},
			{"db.shop.svc.cluster.local.", mdns.TypeA, "10.244.0.9"},
			{"10-244-0-9.shop.pod.cluster.local.", mdns.TypeA, "10.244.0.9"},
			{"7.0.96.10.in-addr.arpa.", mdns.TypePTR, "web.shop.svc.cluster.local."},
			{"_http._tcp.web.shop.svc.cluster.local.", mdns.TypeSRV, "80 web.shop.svc.cluster.local."},
			{"absent.shop.svc.cluster.local.", mdns.TypeA, "NXDOMAIN"},
			{"example.org.", mdns.TypeA, "REFUSED"},
		} {
			if got := ask(t, c.Listen, tc.name, tc.qtype); !strings.HasSuffix(got, tc.want) {
				t.Errorf("%s, %s: got %q, want %q", when, tc.name, got, tc.want)
			}
		}
	}
	check("API there")
	server.CloseClientConnections()
	server.Close()
	check("API gone")
}

func ask(t *testing.T, server, name string, qtype uint16) string {
	t.Helper()
	m := new(mdns.Msg).SetQuestion(name, qtype)
	reply, _, err := new(mdns.Client).Exchange(m, server)
	if err != nil {
		t.Fatal(err)
	}
	if len(reply.Answer) == 0 {
		return mdns.RcodeToString[reply.Rcode]
	}
	return reply.Answer[0].String()
}

func TestMain(m *testing.M) {
	os.Unsetenv("KUBERNETES_SERVICE_HOST")
	os.Exit(m.Run())
}
