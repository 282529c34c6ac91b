// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
)

// podLog serves pods/log by streaming it from the pod's node.
type podLog struct {
	pods  *registry.Store
	nodes *nodeClient
}

var (
	_ rest.GetterWithOptions = (*podLog)(nil)
	_ rest.StorageMetadata   = (*podLog)(nil)
)

// New says what kind the subresource hangs on.
func (l *podLog) New() runtime.Object { return &corev1.Pod{} }

// Destroy does nothing, the main resource owns the store.
func (l *podLog) Destroy() {}

func (l *podLog) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

func (l *podLog) ProducesObject(string) any { return "" }

// OverrideMetricsVerb counts a log that is followed as what it is: long.
func (l *podLog) OverrideMetricsVerb(verb string) string {
	if verb == "GET" {
		return "CONNECT"
	}
	return verb
}

func (l *podLog) NewGetOptions() (options runtime.Object, includesPath bool, path string) {
	return &corev1.PodLogOptions{}, false, ""
}

func (l *podLog) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	o := options.(*corev1.PodLogOptions)
	if errs := validateLogOptions(o); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), name, errs)
	}
	pod, err := getPod(ctx, l.pods, name)
	if err != nil {
		return nil, err
	}
	container, err := chooseContainer(pod, o.Container)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		// Not scheduled: there is nothing to show and nothing wrong.
		return &genericrest.LocationStreamer{}, nil
	}
	path := fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container)
	location, err := l.nodes.location(ctx, pod.Spec.NodeName, path, logQuery(o))
	if err != nil {
		return nil, err
	}
	return wholeStreamer{&genericrest.LocationStreamer{
		Location:        location,
		Transport:       l.nodes.transport,
		ContentType:     "text/plain",
		Flush:           o.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(schema.GroupResource{Resource: "pods/log"}, name),
		RedirectChecker: genericrest.PreventRedirects,
	}}, nil
}

// wholeStreamer breaks the client's response off when the node's breaks off, so that the client does not take a part of a
// log for the whole.
type wholeStreamer struct{ *genericrest.LocationStreamer }

func (s wholeStreamer) InputStream(ctx context.Context, version, accept string) (io.ReadCloser, bool, string, error) {
	body, flush, contentType, err := s.LocationStreamer.InputStream(ctx, version, accept)
	if body != nil {
		body = wholeBody{body}
	}
	return body, flush, contentType, err
}

type wholeBody struct{ io.ReadCloser }

func (b wholeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n == 0 && err != nil && !errors.Is(err, io.EOF) {
		// The response has begun: this is the only way left to say that it is not complete.
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func validateLogOptions(o *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	return errs
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	for name, set := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if set {
			q.Set(name, "true")
		}
	}
	for name, n := range map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes} {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	if o.Stream != nil {
		q.Set("stream", *o.Stream)
	}
	return q
}
