// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/dynamic"
	kubectl "k8s.io/kubectl/pkg/cmd"
)

// kubectlVariable makes the test binary behave as kubectl, since a command that fails ends its process.
const kubectlVariable = "SKEP_TEST_KUBECTL"

// runKubectl is the kubectl library as a program.
func runKubectl() int {
	command := kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
		Arguments:   os.Args,
		ConfigFlags: genericclioptions.NewConfigFlags(true),
		IOStreams:   genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	if err := command.Execute(); err != nil {
		return 1
	}
	return 0
}

// ctl runs kubectl with arguments that are split at spaces.
func ctl(t *testing.T, input, line string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"--kubeconfig", shared.kubeconfig()}, strings.Fields(line)...)...)
	cmd.Env = append(os.Environ(), kubectlVariable+"=1", "HOME="+t.TempDir())
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func TestKubectl(t *testing.T) {
	ns := namespace(t)
	manifest := string(encode(t, deployment(ns, "web")))
	broken := strings.Replace(manifest, `"image"`, `"imagee"`, 1)
	for _, c := range []struct {
		input, line, want string
		fails             bool
	}{
		{manifest, "apply -f -", "deployment.apps/web created", false},
		{manifest, "apply -f -", "deployment.apps/web unchanged", false},
		{manifest, "apply --server-side --force-conflicts -f -", "deployment.apps/web serverside-applied", false},
		{broken, "apply -f -", `unknown field "spec.template.spec.containers[0].imagee"`, true},
		{"", "get deploy web -n " + ns, "NAME   READY   UP-TO-DATE   AVAILABLE   AGE", false},
		{"", "get deploy web -o wide -n " + ns, "nginx:1.17.1", false},
		{"", "get deploy web -o jsonpath={.spec.replicas} -n " + ns, "1", false},
		{"", "scale deploy web --replicas=2 -n " + ns, "deployment.apps/web scaled", false},
		{"", "set image deploy/web c=other:1 -n " + ns, "deployment.apps/web image updated", false},
		{"", "label deploy web a=b -n " + ns, "deployment.apps/web labeled", false},
		{"", "describe deploy web -n " + ns, "Replicas:", false},
		{"", "explain deployment.spec.strategy.rollingUpdate", "maxSurge", false},
		{"", "api-resources --api-group=apps -o name", "deployments.apps", false},
		{"", "auth can-i delete nodes", "yes", false},
		{"", "get nothings", `the server doesn't have a resource type "nothings"`, true},
		{"", "delete deploy web -n " + ns, "deleted", false},
	} {
		out, err := ctl(t, c.input, c.line)
		if (err != nil) != c.fails || !strings.Contains(out, c.want) {
			t.Errorf("kubectl %s: %v, want %q in:\n%s", c.line, err, c.want, out)
		}
	}
}

func TestCustomResources(t *testing.T) {
	ns := namespace(t)
	crd := object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "bees.test.skep.dev")
	crd["spec"] = tree{
		"group": "test.skep.dev", "scope": "Namespaced",
		"names": tree{"kind": "Bee", "plural": "bees", "singular": "bee"},
		"versions": []any{tree{"name": "v1", "served": true, "storage": true, "schema": tree{"openAPIV3Schema": tree{
			"type": "object", "properties": tree{"spec": tree{"type": "object", "properties": tree{
				"wings": tree{"type": "integer", "maximum": 4, "default": 4, "description": "How many wings."}}}}}}}},
	}
	post(t, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd, http.StatusCreated)
	t.Cleanup(func() {
		err := shared.client.CoreV1().RESTClient().Delete().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/bees.test.skep.dev").Do(context.Background()).Error()
		if err != nil {
			t.Error(err)
		}
	})
	client, err := dynamic.NewForConfig(shared.config)
	if err != nil {
		t.Fatal(err)
	}
	bees := client.Resource(schema.GroupVersionResource{Group: "test.skep.dev", Version: "v1", Resource: "bees"}).Namespace(ns)
	bee := func(wings any) *unstructured.Unstructured {
		o := object("test.skep.dev/v1", "Bee", ns, "maja")
		o["spec"] = tree{}
		if wings != nil {
			o["spec"] = tree{"wings": wings}
		}
		return &unstructured.Unstructured{Object: o}
	}
	var created *unstructured.Unstructured
	eventually(t, "the new resource", func() bool {
		created, err = bees.Create(t.Context(), bee(nil), metav1.CreateOptions{})
		return err == nil
	})
	if n, _, _ := unstructured.NestedInt64(created.Object, "spec", "wings"); n != 4 {
		t.Errorf("default: %d wings", n)
	}
	if _, err := bees.Update(t.Context(), func() *unstructured.Unstructured {
		o := bee(int64(5))
		o.SetResourceVersion(created.GetResourceVersion())
		return o
	}(), metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("five wings: %v", err)
	}
	eventually(t, "explain of the new resource", func() bool {
		out, err := ctl(t, "", "explain bee.spec.wings")
		return err == nil && strings.Contains(out, "How many wings.")
	})
}

func TestStoredFormIsProtobufUnderTheUsualKeys(t *testing.T) {
	ns := namespace(t)
	if _, err := shared.client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("seen", map[string]string{"marker": "in-the-log"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wals, err := filepath.Glob(filepath.Join(shared.dir, "etcd", "member-data", "member", "wal", "*.wal"))
	if err != nil || len(wals) == 0 {
		t.Fatalf("%v, %v", wals, err)
	}
	var log []byte
	for _, w := range wals {
		data, err := os.ReadFile(w)
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, data...)
	}
	_, after, found := bytes.Cut(log, []byte("/registry/configmaps/"+ns+"/seen"))
	if !found || !bytes.HasPrefix(after[bytes.Index(after, []byte("k8s")):], []byte("k8s\x00")) {
		t.Error("the object is not in protobuf under /registry/configmaps")
	}
}
