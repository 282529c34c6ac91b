// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	upgrade "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// streamVerb is the difference between exec, attach and port-forward.
type streamVerb interface {
	// options returns an empty options object.
	options() runtime.Object
	// target returns the path and query on the node agent.
	target(pod *corev1.Pod, options runtime.Object) (path string, query url.Values, err error)
	// handler wraps the plain proxy for clients that speak WebSocket where the node speaks SPDY.
	handler(plain http.Handler, location *url.URL, transport http.RoundTripper, options runtime.Object) http.Handler
}

// podStream serves pods/exec, pods/attach and pods/portforward by handing the upgraded connection to the pod's node.
type podStream struct {
	pods  *registry.Store
	nodes *nodeClient
	verb  streamVerb
}

var _ rest.Connecter = (*podStream)(nil)

// New says what kind the subresource hangs on.
func (s *podStream) New() runtime.Object { return s.verb.options() }

// Destroy does nothing, the main resource owns the store.
func (s *podStream) Destroy() {}

// ConnectMethods: WebSocket clients must use GET, SPDY clients use POST.
func (s *podStream) ConnectMethods() []string { return []string{http.MethodGet, http.MethodPost} }

func (s *podStream) NewConnectOptions() (options runtime.Object, includesPath bool, path string) {
	return s.verb.options(), false, ""
}

func (s *podStream) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	pod, err := getPod(ctx, s.pods, name)
	if err != nil {
		return nil, err
	}
	path, query, err := s.verb.target(pod, options)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	location, err := s.nodes.location(ctx, pod.Spec.NodeName, path, query)
	if err != nil {
		return nil, err
	}
	plain := upgrade.NewUpgradeAwareHandler(location, s.nodes.transport, false, true, upgrade.NewErrorResponder(responder))
	return s.verb.handler(plain, location, s.nodes.transport, options), nil
}

// streams are the streams that a client asked for.
type streams struct{ stdin, stdout, stderr, tty bool }

func (s streams) query() (url.Values, error) {
	if s.tty && s.stderr {
		s.stderr = false // a terminal has one output
	}
	if !s.stdin && !s.stdout && !s.stderr {
		return nil, apierrors.NewBadRequest("you must specify at least 1 of stdin, stdout, stderr")
	}
	q := url.Values{}
	for name, set := range map[string]bool{
		corev1.ExecStdinParam: s.stdin, corev1.ExecStdoutParam: s.stdout, corev1.ExecStderrParam: s.stderr, corev1.ExecTTYParam: s.tty,
	} {
		if set {
			q.Set(name, "1")
		}
	}
	return q, nil
}

func (s streams) handler(plain http.Handler, location *url.URL, transport http.RoundTripper) http.Handler {
	translated := &webSocketTranslator{streams: s, location: location, transport: transport}
	return proxy.NewTranslatingHandler(plain, translated, wsstream.IsWebSocketRequestWithStreamCloseProtocol)
}

type execVerb struct{}

func (execVerb) options() runtime.Object { return &corev1.PodExecOptions{} }

func (execVerb) streams(options runtime.Object) streams {
	o := options.(*corev1.PodExecOptions)
	return streams{stdin: o.Stdin, stdout: o.Stdout, stderr: o.Stderr, tty: o.TTY}
}

func (v execVerb) target(pod *corev1.Pod, options runtime.Object) (string, url.Values, error) {
	o := options.(*corev1.PodExecOptions)
	if len(o.Command) == 0 {
		return "", nil, apierrors.NewBadRequest("you must specify at least 1 command for the container")
	}
	container, err := chooseContainer(pod, o.Container)
	if err != nil {
		return "", nil, err
	}
	q, err := v.streams(options).query()
	if err != nil {
		return "", nil, err
	}
	q[corev1.ExecCommandParam] = o.Command
	return fmt.Sprintf("/exec/%s/%s/%s", pod.Namespace, pod.Name, container), q, nil
}

func (v execVerb) handler(plain http.Handler, location *url.URL, transport http.RoundTripper, options runtime.Object) http.Handler {
	return v.streams(options).handler(plain, location, transport)
}

type attachVerb struct{}

func (attachVerb) options() runtime.Object { return &corev1.PodAttachOptions{} }

func (attachVerb) streams(options runtime.Object) streams {
	o := options.(*corev1.PodAttachOptions)
	return streams{stdin: o.Stdin, stdout: o.Stdout, stderr: o.Stderr, tty: o.TTY}
}

func (v attachVerb) target(pod *corev1.Pod, options runtime.Object) (string, url.Values, error) {
	container, err := chooseContainer(pod, options.(*corev1.PodAttachOptions).Container)
	if err != nil {
		return "", nil, err
	}
	q, err := v.streams(options).query()
	return fmt.Sprintf("/attach/%s/%s/%s", pod.Namespace, pod.Name, container), q, err
}

func (v attachVerb) handler(plain http.Handler, location *url.URL, transport http.RoundTripper, options runtime.Object) http.Handler {
	return v.streams(options).handler(plain, location, transport)
}

type portForwardVerb struct{}

func (portForwardVerb) options() runtime.Object { return &corev1.PodPortForwardOptions{} }

func (portForwardVerb) target(pod *corev1.Pod, options runtime.Object) (string, url.Values, error) {
	q := url.Values{}
	for _, port := range options.(*corev1.PodPortForwardOptions).Ports {
		q.Add(corev1.PortHeader, strconv.Itoa(int(port)))
	}
	return fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), q, nil
}

func (portForwardVerb) handler(plain http.Handler, _ *url.URL, _ http.RoundTripper, _ runtime.Object) http.Handler {
	return proxy.NewTranslatingHandler(plain, proxy.NewTunnelingHandler(plain), wsstream.IsWebSocketRequestWithTunnelingProtocol)
}
