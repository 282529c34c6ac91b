// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skep.dev/skep/nodeagent/downward"
	"skep.dev/skep/nodeagent/source"
)

const defaultMode = 0o644

// files is the content of a volume that the agent fills, and when it has to be filled again (zero: only on a change).
func (m *Manager) files(ctx context.Context, pod *v1.Pod, v *v1.Volume) (map[string]File, time.Time, error) {
	switch {
	case v.ConfigMap != nil:
		files, err := m.configMap(ctx, pod.Namespace, v.ConfigMap.Name, v.ConfigMap.Items, mode(v.ConfigMap.DefaultMode), v.ConfigMap.Optional)
		return files, time.Time{}, err
	case v.Secret != nil:
		files, err := m.secret(ctx, pod.Namespace, v.Secret.SecretName, v.Secret.Items, mode(v.Secret.DefaultMode), v.Secret.Optional)
		return files, time.Time{}, err
	case v.DownwardAPI != nil:
		files, err := downwardFiles(pod, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode))
		return files, time.Time{}, err
	case v.Projected != nil:
		return m.projected(ctx, pod, v.Projected)
	}
	return nil, time.Time{}, errors.New("not a volume that the agent fills")
}

func mode(m *int32) fs.FileMode {
	if m == nil {
		return defaultMode
	}
	return fs.FileMode(*m).Perm()
}

func optional(o *bool) bool { return o != nil && *o }

func (m *Manager) configMap(ctx context.Context, namespace, name string, items []v1.KeyToPath, mode fs.FileMode, opt *bool) (map[string]File, error) {
	cm, err := m.source.ConfigMap(ctx, namespace, name)
	if apierrors.IsNotFound(err) && optional(opt) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, s := range cm.Data {
		data[k] = []byte(s)
	}
	maps.Copy(data, cm.BinaryData)
	return pick(data, items, mode, optional(opt))
}

func (m *Manager) secret(ctx context.Context, namespace, name string, items []v1.KeyToPath, mode fs.FileMode, opt *bool) (map[string]File, error) {
	s, err := m.source.Secret(ctx, namespace, name)
	if apierrors.IsNotFound(err) && optional(opt) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return pick(s.Data, items, mode, optional(opt))
}

func pick(data map[string][]byte, items []v1.KeyToPath, mode fs.FileMode, opt bool) (map[string]File, error) {
	out := make(map[string]File, len(data))
	if len(items) == 0 {
		for k, b := range data {
			out[k] = File{Data: b, Mode: mode}
		}
		return out, nil
	}
	for _, item := range items {
		b, ok := data[item.Key]
		if !ok {
			if opt {
				continue
			}
			return nil, fmt.Errorf("references non-existent config key: %s", item.Key)
		}
		out[item.Path] = File{Data: b, Mode: itemMode(item.Mode, mode)}
	}
	return out, nil
}

func itemMode(m *int32, fallback fs.FileMode) fs.FileMode {
	if m == nil {
		return fallback
	}
	return fs.FileMode(*m).Perm()
}

func downwardFiles(pod *v1.Pod, items []v1.DownwardAPIVolumeFile, mode fs.FileMode) (map[string]File, error) {
	out := make(map[string]File, len(items))
	for _, item := range items {
		var text string
		var err error
		switch {
		case item.FieldRef != nil:
			text, err = downward.Field(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			text, err = downward.Resource(pod, item.ResourceFieldRef, item.ResourceFieldRef.ContainerName)
		}
		if err != nil {
			return nil, err
		}
		out[item.Path] = File{Data: []byte(text), Mode: itemMode(item.Mode, mode)}
	}
	return out, nil
}

func (m *Manager) projected(ctx context.Context, pod *v1.Pod, p *v1.ProjectedVolumeSource) (map[string]File, time.Time, error) {
	out := map[string]File{}
	var next time.Time
	var errs []error
	for _, src := range p.Sources {
		var files map[string]File
		var err error
		switch {
		case src.ConfigMap != nil:
			files, err = m.configMap(ctx, pod.Namespace, src.ConfigMap.Name, src.ConfigMap.Items, mode(p.DefaultMode), src.ConfigMap.Optional)
		case src.Secret != nil:
			files, err = m.secret(ctx, pod.Namespace, src.Secret.Name, src.Secret.Items, mode(p.DefaultMode), src.Secret.Optional)
		case src.DownwardAPI != nil:
			files, err = downwardFiles(pod, src.DownwardAPI.Items, mode(p.DefaultMode))
		case src.ServiceAccountToken != nil:
			var due time.Time
			files, due, err = m.token(ctx, pod, src.ServiceAccountToken, mode(p.DefaultMode))
			if !due.IsZero() && (next.IsZero() || due.Before(next)) {
				next = due
			}
		default:
			err = errors.New("this kind of projected source is not supported by the node")
		}
		if err != nil {
			errs = append(errs, err)
		}
		maps.Copy(out, files)
	}
	return out, next, errors.Join(errs...)
}

func (m *Manager) token(ctx context.Context, pod *v1.Pod, t *v1.ServiceAccountTokenProjection, mode fs.FileMode) (map[string]File, time.Time, error) {
	seconds := int64(3600)
	if t.ExpirationSeconds != nil {
		seconds = *t.ExpirationSeconds
	}
	token, err := m.source.Token(ctx, pod, t.Audience, seconds)
	if err != nil {
		return nil, time.Time{}, err
	}
	file := File{Data: []byte(token.Token), Mode: mode}
	// A token is readable by root alone, or by the one user that all containers run as; with fsGroup by the group.
	file.Mode = 0o600
	if uid := commonUser(pod); uid != nil {
		file.UID = uid
	} else if fsGroup(pod) == nil {
		file.Mode = mode
	}
	return map[string]File{t.Path: file}, token.Refresh, nil
}

// commonUser is the user that all containers are told to run as, if that is one.
func commonUser(pod *v1.Pod) *int64 {
	var common *int64
	if pod.Spec.SecurityContext != nil {
		common = pod.Spec.SecurityContext.RunAsUser
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			sc := list[i].SecurityContext
			if sc == nil || sc.RunAsUser == nil {
				continue
			}
			if common != nil && *common != *sc.RunAsUser || common == nil && len(pod.Spec.Containers)+len(pod.Spec.InitContainers) > 1 {
				return nil
			}
			common = sc.RunAsUser
		}
	}
	return common
}

// Refs lists the objects that a pod's volumes, environment and image pulls refer to.
func Refs(pod *v1.Pod) []source.Ref {
	seen := map[source.Ref]bool{}
	add := func(kind source.Kind, name string) {
		if name != "" {
			seen[source.Ref{Kind: kind, Namespace: pod.Namespace, Name: name}] = true
		}
	}
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			add(source.ConfigMap, v.ConfigMap.Name)
		case v.Secret != nil:
			add(source.Secret, v.Secret.SecretName)
		case v.Projected != nil:
			for _, src := range v.Projected.Sources {
				if src.ConfigMap != nil {
					add(source.ConfigMap, src.ConfigMap.Name)
				}
				if src.Secret != nil {
					add(source.Secret, src.Secret.Name)
				}
			}
		}
	}
	out := make([]source.Ref, 0, len(seen))
	for ref := range seen {
		out = append(out, ref)
	}
	return out
}
