// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"skep.dev/skep/nodeagent/downward"
	"skep.dev/skep/nodeagent/volume"
)

// expand replaces $(NAME) by values[NAME] as the API documents: $$ is a dollar sign, a reference to an unknown name stays as it is.
func expand(text string, values map[string]string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(text, '$')
		if i < 0 || i == len(text)-1 {
			b.WriteString(text)
			return b.String()
		}
		b.WriteString(text[:i])
		rest := text[i+1:]
		switch rest[0] {
		case '$':
			b.WriteByte('$')
			text = rest[1:]
		case '(':
			name, after, ok := strings.Cut(rest[1:], ")")
			if !ok {
				b.WriteString(text[i:])
				return b.String()
			}
			if v, known := values[name]; known {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			text = after
		default:
			b.WriteByte('$')
			text = rest
		}
	}
}

func expandAll(list []string, values map[string]string) []string {
	if list == nil {
		return nil
	}
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, expand(s, values))
	}
	return out
}

// environment is what the container's own variables come to: names in order of first appearance, and their values.
type environment struct {
	names  []string
	values map[string]string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

// envBuilder evaluates environments.
type envBuilder struct {
	source   volume.Source
	services []*v1.Service
}

// build evaluates a container's env and envFrom. Errors are the user's to mend and name what is missing.
func (b envBuilder) build(ctx context.Context, pod *v1.Pod, c *v1.Container) (*environment, error) {
	env := &environment{values: map[string]string{}}
	// Service variables come first, so that the container's own win and can refer to them.
	services := serviceEnv(b.services, pod.Namespace, pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks)
	for _, name := range slices.Sorted(maps.Keys(services)) {
		env.set(name, services[name])
	}
	for i := range c.EnvFrom {
		if err := b.from(ctx, pod, &c.EnvFrom[i], env); err != nil {
			return nil, err
		}
	}
	for i := range c.Env {
		v := &c.Env[i]
		if v.ValueFrom == nil {
			env.set(v.Name, expand(v.Value, env.values))
			continue
		}
		value, ok, err := b.value(ctx, pod, c, v.ValueFrom)
		if err != nil {
			return nil, err
		}
		if ok {
			env.set(v.Name, value)
		}
	}
	return env, nil
}

func (b envBuilder) from(ctx context.Context, pod *v1.Pod, f *v1.EnvFromSource, env *environment) error {
	data := map[string]string{}
	switch {
	case f.ConfigMapRef != nil:
		cm, err := b.source.ConfigMap(ctx, pod.Namespace, f.ConfigMapRef.Name)
		if err != nil {
			return optionalMissing(err, f.ConfigMapRef.Optional)
		}
		data = cm.Data
	case f.SecretRef != nil:
		s, err := b.source.Secret(ctx, pod.Namespace, f.SecretRef.Name)
		if err != nil {
			return optionalMissing(err, f.SecretRef.Optional)
		}
		for k, v := range s.Data {
			data[k] = string(v)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(data)) {
		if name := f.Prefix + k; !strings.Contains(name, "=") {
			env.set(name, data[k])
		}
	}
	return nil
}

func optionalMissing(err error, opt *bool) error {
	if apierrors.IsNotFound(err) && opt != nil && *opt {
		return nil
	}
	return err
}

func (b envBuilder) value(ctx context.Context, pod *v1.Pod, c *v1.Container, from *v1.EnvVarSource) (string, bool, error) {
	switch {
	case from.FieldRef != nil:
		s, err := downward.Field(pod, from.FieldRef.FieldPath)
		return s, true, err
	case from.ResourceFieldRef != nil:
		name := from.ResourceFieldRef.ContainerName
		if name == "" {
			name = c.Name
		}
		s, err := downward.Resource(pod, from.ResourceFieldRef, name)
		return s, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := b.source.ConfigMap(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, optionalMissing(err, ref.Optional)
		}
		s, ok := cm.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return s, ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret, err := b.source.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, optionalMissing(err, ref.Optional)
		}
		s, ok := secret.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(s), ok, nil
	}
	return "", false, nil
}

// serviceEnv is the set of variables for Services: those of the pod's namespace (with links on) and always the API server's.
func serviceEnv(services []*v1.Service, namespace string, links bool) map[string]string {
	out := map[string]string{}
	for _, s := range services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		master := s.Namespace == metav1NamespaceDefault && s.Name == "kubernetes"
		if !master && (!links || s.Namespace != namespace) {
			continue
		}
		if master && namespace != metav1NamespaceDefault && len(out) > 0 && out["KUBERNETES_SERVICE_HOST"] != "" {
			// A Service called kubernetes in the pod's own namespace wins.
			continue
		}
		addService(out, s)
	}
	return out
}

const metav1NamespaceDefault = "default"

func addService(out map[string]string, s *v1.Service) {
	prefix := envName(s.Name)
	first := s.Spec.Ports[0]
	out[prefix+"_SERVICE_HOST"] = s.Spec.ClusterIP
	out[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(first.Port))
	for i, p := range s.Spec.Ports {
		port, proto := strconv.Itoa(int(p.Port)), string(p.Protocol)
		if proto == "" {
			proto = "TCP"
		}
		if p.Name != "" {
			out[prefix+"_SERVICE_PORT_"+envName(p.Name)] = port
		}
		url := strings.ToLower(proto) + "://" + net.JoinHostPort(s.Spec.ClusterIP, port)
		if i == 0 {
			out[prefix+"_PORT"] = url
		}
		base := prefix + "_PORT_" + port + "_" + strings.ToUpper(proto)
		out[base] = url
		out[base+"_PROTO"] = strings.ToLower(proto)
		out[base+"_PORT"] = port
		out[base+"_ADDR"] = s.Spec.ClusterIP
	}
}

func envName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }

func (a *agent) envBuilder() envBuilder {
	services, err := a.services.List(labels.Everything())
	if err != nil {
		services = nil
	}
	return envBuilder{source: a.objects, services: services}
}
