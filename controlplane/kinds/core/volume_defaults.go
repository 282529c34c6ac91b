// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/kinds/fill"
)

func defaultVolumes(volumes []corev1.Volume) {
	for i := range volumes {
		defaultVolume(&volumes[i].VolumeSource)
	}
}

func defaultVolume(v *corev1.VolumeSource) {
	if *v == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	if v.Secret != nil {
		fill.Nil(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	}
	if v.ConfigMap != nil {
		fill.Nil(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	}
	if v.DownwardAPI != nil {
		fill.Nil(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownwardFiles(v.DownwardAPI.Items)
	}
	if v.HostPath != nil {
		fill.Nil(&v.HostPath.Type, corev1.HostPathUnset)
	}
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		fill.Nil(&v.Ephemeral.VolumeClaimTemplate.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	}
	if v.Image != nil {
		fill.Zero(&v.Image.PullPolicy, pullPolicyFor(v.Image.Reference))
	}
	if v.Projected != nil {
		defaultProjected(v.Projected)
	}
	defaultNetworkVolume(v)
}

func defaultProjected(p *corev1.ProjectedVolumeSource) {
	const tokenLifetimeSeconds = int64(60 * 60)
	fill.Nil(&p.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
	for i := range p.Sources {
		source := &p.Sources[i]
		if source.ServiceAccountToken != nil {
			fill.Nil(&source.ServiceAccountToken.ExpirationSeconds, tokenLifetimeSeconds)
		}
		if source.DownwardAPI != nil {
			defaultDownwardFiles(source.DownwardAPI.Items)
		}
	}
}

func defaultDownwardFiles(files []corev1.DownwardAPIVolumeFile) {
	for i := range files {
		defaultFieldRef(files[i].FieldRef)
	}
}

func defaultNetworkVolume(v *corev1.VolumeSource) {
	if v.ISCSI != nil {
		fill.Zero(&v.ISCSI.ISCSIInterface, "default")
	}
	if v.RBD != nil {
		fill.Zero(&v.RBD.RBDPool, "rbd")
		fill.Zero(&v.RBD.RadosUser, "admin")
		fill.Zero(&v.RBD.Keyring, "/etc/ceph/keyring")
	}
	if v.ScaleIO != nil {
		fill.Zero(&v.ScaleIO.StorageMode, "ThinProvisioned")
		fill.Zero(&v.ScaleIO.FSType, "xfs")
	}
	if v.AzureDisk != nil {
		fill.Nil(&v.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		fill.Nil(&v.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		fill.Nil(&v.AzureDisk.FSType, "ext4")
		fill.Nil(&v.AzureDisk.ReadOnly, false)
	}
}
