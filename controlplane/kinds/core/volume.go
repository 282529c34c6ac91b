// SPDX-License-Identifier: Apache-2.0

package core

import (
	"path"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds/check"
)

// validateVolumes returns the volumes that containers may mount, by name.
func validateVolumes(volumes []corev1.Volume, at *field.Path) (map[string]corev1.VolumeSource, field.ErrorList) {
	var errs field.ErrorList
	known := make(map[string]corev1.VolumeSource, len(volumes))
	for i, v := range volumes {
		here := at.Index(i)
		bad := validateVolumeSource(&v.VolumeSource, here, v.Name)
		switch {
		case v.Name == "":
			bad = append(bad, field.Required(here.Child("name"), ""))
		default:
			bad = append(bad, check.Invalid(here.Child("name"), v.Name, validation.IsDNS1123Label(v.Name))...)
		}
		if _, ok := known[v.Name]; ok && v.Name != "" {
			bad = append(bad, field.Duplicate(here.Child("name"), v.Name))
		}
		if len(bad) == 0 {
			known[v.Name] = v.VolumeSource
		}
		errs = append(errs, bad...)
	}
	return known, errs
}

// validateVolumeSource checks that there is exactly one source, and the sources that this system provides in detail.
// The others are known to no node and fail there with a clear event.
func validateVolumeSource(v *corev1.VolumeSource, at *field.Path, volumeName string) field.ErrorList {
	names := setFields(v)
	if len(names) == 0 {
		return field.ErrorList{field.Required(at, "must specify a volume type")}
	}
	var errs field.ErrorList
	for _, name := range names[1:] {
		errs = append(errs, field.Forbidden(at.Child(name), "may not specify more than 1 volume type"))
	}
	at = at.Child(names[0])
	switch names[0] {
	case "emptyDir":
		errs = append(errs, validateEmptyDir(v.EmptyDir, at)...)
	case "hostPath":
		errs = append(errs, validateHostPath(v.HostPath, at)...)
	case "secret":
		if v.Secret.SecretName == "" {
			errs = append(errs, field.Required(at.Child("secretName"), ""))
		}
		errs = append(errs, validateFileMode(v.Secret.DefaultMode, at.Child("defaultMode"))...)
		errs = append(errs, validateKeysToPaths(v.Secret.Items, at.Child("items"))...)
	case "configMap":
		if v.ConfigMap.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		errs = append(errs, validateFileMode(v.ConfigMap.DefaultMode, at.Child("defaultMode"))...)
		errs = append(errs, validateKeysToPaths(v.ConfigMap.Items, at.Child("items"))...)
	case "downwardAPI":
		errs = append(errs, validateFileMode(v.DownwardAPI.DefaultMode, at.Child("defaultMode"))...)
		for i := range v.DownwardAPI.Items {
			errs = append(errs, validateDownwardFile(&v.DownwardAPI.Items[i], at.Child("items").Index(i))...)
		}
	case "projected":
		errs = append(errs, validateProjected(v.Projected, at)...)
	case "persistentVolumeClaim":
		if v.PersistentVolumeClaim.ClaimName == "" {
			errs = append(errs, field.Required(at.Child("claimName"), ""))
		}
	case "nfs":
		errs = append(errs, validateNFS(v.NFS, at)...)
	case "csi":
		if v.CSI.Driver == "" {
			errs = append(errs, field.Required(at.Child("driver"), ""))
		}
	case "image":
		if v.Image.Reference == "" {
			errs = append(errs, field.Required(at.Child("reference"), ""))
		}
		errs = append(errs, check.OneOf(at.Child("pullPolicy"), v.Image.PullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	}
	return errs
}

// setFields lists the JSON names of the pointers that are set, in the order of the type.
func setFields(source any) []string {
	v := reflect.ValueOf(source).Elem()
	var names []string
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

func validateEmptyDir(v *corev1.EmptyDirVolumeSource, at *field.Path) field.ErrorList {
	if v.SizeLimit != nil && v.SizeLimit.Sign() < 0 {
		return field.ErrorList{field.Forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")}
	}
	return nil
}

func validateHostPath(v *corev1.HostPathVolumeSource, at *field.Path) field.ErrorList {
	if v.Path == "" {
		return field.ErrorList{field.Required(at.Child("path"), "")}
	}
	errs := noBackSteps(v.Path, at.Child("path"))
	if v.Type != nil && *v.Type != corev1.HostPathUnset {
		errs = append(errs, check.OneOf(at.Child("type"), *v.Type, corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory,
			corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)...)
	}
	return errs
}

func validateNFS(v *corev1.NFSVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if v.Server == "" {
		errs = append(errs, field.Required(at.Child("server"), ""))
	}
	if v.Path == "" {
		errs = append(errs, field.Required(at.Child("path"), ""))
	}
	if !path.IsAbs(v.Path) {
		errs = append(errs, field.Invalid(at.Child("path"), v.Path, "must be an absolute path"))
	}
	return errs
}

func validateFileMode(mode *int32, at *field.Path) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		return field.ErrorList{field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

func validateKeysToPaths(items []corev1.KeyToPath, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, item := range items {
		here := at.Index(i)
		if item.Key == "" {
			errs = append(errs, field.Required(here.Child("key"), ""))
		}
		if item.Path == "" {
			errs = append(errs, field.Required(here.Child("path"), ""))
		}
		errs = append(errs, validateLocalFile(item.Path, here.Child("path"))...)
		errs = append(errs, validateFileMode(item.Mode, here.Child("mode"))...)
	}
	return errs
}

func validateDownwardFile(f *corev1.DownwardAPIVolumeFile, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if f.Path == "" {
		errs = append(errs, field.Required(at.Child("path"), ""))
	}
	errs = append(errs, validateLocalFile(f.Path, at.Child("path"))...)
	switch {
	case f.FieldRef != nil:
		errs = append(errs, validateFieldRef(f.FieldRef, volumeFieldPaths, at.Child("fieldRef"))...)
		if f.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case f.ResourceFieldRef != nil:
		errs = append(errs, validateResourceFieldRef(f.ResourceFieldRef, at.Child("resourceFieldRef"), true)...)
	default:
		errs = append(errs, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(errs, validateFileMode(f.Mode, at.Child("mode"))...)
}

func validateProjected(p *corev1.ProjectedVolumeSource, at *field.Path) field.ErrorList {
	errs := validateFileMode(p.DefaultMode, at.Child("defaultMode"))
	taken := sets.New[string]()
	for i := range p.Sources {
		here := at.Child("sources").Index(i)
		names := setFields(&p.Sources[i])
		for n, name := range names {
			if n > 0 {
				errs = append(errs, field.Forbidden(here.Child(name), "may not specify more than 1 volume type"))
				break
			}
			errs = append(errs, validateProjection(&p.Sources[i], name, here.Child(name))...)
		}
		for _, file := range projectedPaths(&p.Sources[i]) {
			if taken.Has(file) {
				errs = append(errs, field.Invalid(here, file, "conflicting duplicate paths"))
			}
			taken.Insert(file)
		}
	}
	return errs
}

func validateProjection(source *corev1.VolumeProjection, name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch name {
	case "secret":
		if source.Secret.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		errs = append(errs, validateKeysToPaths(source.Secret.Items, at.Child("items"))...)
	case "configMap":
		if source.ConfigMap.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		errs = append(errs, validateKeysToPaths(source.ConfigMap.Items, at.Child("items"))...)
	case "downwardAPI":
		for i := range source.DownwardAPI.Items {
			errs = append(errs, validateDownwardFile(&source.DownwardAPI.Items[i], at.Child("items").Index(i))...)
		}
	case "serviceAccountToken":
		errs = append(errs, validateTokenProjection(source.ServiceAccountToken, at)...)
	}
	return errs
}

func validateTokenProjection(t *corev1.ServiceAccountTokenProjection, at *field.Path) field.ErrorList {
	const minSeconds, maxSeconds = 10 * 60, 1 << 32
	var errs field.ErrorList
	if s := t.ExpirationSeconds; s != nil {
		if *s < minSeconds {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration less than 10 minutes"))
		}
		if *s > maxSeconds {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	if t.Path == "" {
		return append(errs, field.Required(at.Child("path"), ""))
	}
	return append(errs, validateLocalFile(t.Path, at.Child("path"))...)
}

// projectedPaths lists the files that a source names. Whole secrets and configMaps are not known here.
func projectedPaths(source *corev1.VolumeProjection) []string {
	var paths []string
	items := func(items []corev1.KeyToPath) {
		for _, item := range items {
			paths = append(paths, path.Clean(item.Path))
		}
	}
	if source.Secret != nil {
		items(source.Secret.Items)
	}
	if source.ConfigMap != nil {
		items(source.ConfigMap.Items)
	}
	if source.DownwardAPI != nil {
		for _, item := range source.DownwardAPI.Items {
			paths = append(paths, path.Clean(item.Path))
		}
	}
	if source.ServiceAccountToken != nil {
		paths = append(paths, path.Clean(source.ServiceAccountToken.Path))
	}
	return paths
}

// validateLocalPath accepts a relative path that stays below its start.
func validateLocalPath(p string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(p) {
		errs = append(errs, field.Invalid(at, p, "must be a relative path"))
	}
	return append(errs, noBackSteps(p, at)...)
}

// validateLocalFile also refuses names that begin with two dots, which the atomic writer of volumes uses itself.
func validateLocalFile(p string, at *field.Path) field.ErrorList {
	errs := validateLocalPath(p, at)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}

func noBackSteps(p string, at *field.Path) field.ErrorList {
	for _, part := range strings.Split(p, "/") {
		if part == ".." {
			return field.ErrorList{field.Invalid(at, p, "must not contain '..'")}
		}
	}
	return nil
}

func (s scope) volumeMounts(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	paths := sets.New[string]()
	for i := range c.VolumeMounts {
		mount, here := &c.VolumeMounts[i], at.Index(i)
		if mount.Name == "" {
			errs = append(errs, field.Required(here.Child("name"), ""))
		}
		if _, ok := s.volumes[mount.Name]; !ok {
			errs = append(errs, field.NotFound(here.Child("name"), mount.Name))
		}
		if mount.MountPath == "" {
			errs = append(errs, field.Required(here.Child("mountPath"), ""))
		}
		if paths.Has(mount.MountPath) {
			errs = append(errs, field.Invalid(here.Child("mountPath"), mount.MountPath, "must be unique"))
		}
		paths.Insert(mount.MountPath)
		errs = append(errs, validateMountOptions(mount, c, here)...)
	}
	return errs
}

func validateMountOptions(mount *corev1.VolumeMount, c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if mount.SubPath != "" {
		errs = append(errs, validateLocalPath(mount.SubPath, at.Child("subPath"))...)
	}
	if mount.SubPathExpr != "" {
		if mount.SubPath != "" {
			errs = append(errs, field.Invalid(at.Child("subPathExpr"), mount.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
		}
		errs = append(errs, validateLocalPath(mount.SubPathExpr, at.Child("subPathExpr"))...)
	}
	if p := mount.MountPropagation; p != nil {
		errs = append(errs, check.OneOf(at.Child("mountPropagation"), *p,
			corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)...)
		privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		if *p == corev1.MountPropagationBidirectional && !privileged {
			errs = append(errs, field.Forbidden(at.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
		}
	}
	if r := mount.RecursiveReadOnly; r != nil && *r != corev1.RecursiveReadOnlyDisabled {
		errs = append(errs, check.OneOf(at.Child("recursiveReadOnly"), *r,
			corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)...)
		if !mount.ReadOnly {
			errs = append(errs, field.Forbidden(at.Child("recursiveReadOnly"), "may only be specified when readOnly is true"))
		}
	}
	return errs
}
