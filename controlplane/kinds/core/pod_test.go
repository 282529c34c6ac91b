// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

type podCase struct {
	Name   string
	Change func(*corev1.Pod)
	Want   []string
}

func parse[T any](text string) *T {
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		panic(err)
	}
	return o
}

// validPod uses a bit of everything, so that a case can spoil it.
func validPod() *corev1.Pod {
	return parse[corev1.Pod](`
metadata: {name: p, namespace: web}
spec:
  initContainers:
  - {name: prepare, image: "busybox:1.36"}
  - {name: sidecar, image: "busybox:1.36", restartPolicy: Always}
  containers:
  - name: main
    image: nginx:1.17.1
    ports:
    - {name: http, containerPort: 80}
    - {name: dns, containerPort: 53, protocol: UDP}
    env:
    - {name: A, value: b}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: KEY, valueFrom: {secretKeyRef: {name: s, key: k}}}
    resources: {limits: {cpu: 200m, memory: 64Mi}, requests: {cpu: 100m}}
    readinessProbe: {httpGet: {port: http}}
    volumeMounts: [{name: config, mountPath: /etc/config}]
  volumes:
  - {name: config, configMap: {name: c}}
  - {name: scratch}
`)
}

func main(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] }

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

func TestPodContainersAreChecked(t *testing.T) {
	kindtest.Create(t, Pod(), validPod, []podCase{
		{"a valid pod", func(*corev1.Pod) {}, nil},
		{"no containers", func(p *corev1.Pod) { p.Spec.Containers = nil }, []string{"spec.containers: Required value"}},
		{"a container without a name", func(p *corev1.Pod) { main(p).Name = "" }, []string{"spec.containers[0].name: Required value"}},
		{"a name in capitals", func(p *corev1.Pod) { main(p).Name = "Main" }, []string{`spec.containers[0].name: Invalid value: "Main": a lowercase RFC 1123 label must consist of`}},
		{"a name twice", func(p *corev1.Pod) { p.Spec.InitContainers[0].Name = "main" }, []string{`spec.initContainers[0].name: Duplicate value: "main"`}},
		{"no image", func(p *corev1.Pod) { main(p).Image = "" }, []string{"spec.containers[0].image: Required value"}},
		{"an image with a space", func(p *corev1.Pod) { main(p).Image = " nginx" }, []string{`spec.containers[0].image: Invalid value: " nginx": must not have leading or trailing whitespace`}},
		{"an unknown pull policy", func(p *corev1.Pod) { main(p).ImagePullPolicy = "Sometimes" }, []string{`spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"`}},
		{"a port that is too large", func(p *corev1.Pod) { main(p).Ports[1].ContainerPort = 70000 }, []string{"spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"}},
		{"a port of zero", func(p *corev1.Pod) { main(p).Ports[0].ContainerPort = 0 }, []string{"spec.containers[0].ports[0].containerPort: Required value"}},
		{"a port name twice", func(p *corev1.Pod) { main(p).Ports[1].Name = "http" }, []string{`spec.containers[0].ports[1].name: Duplicate value: "http"`}},
		{"a port name that is too long", func(p *corev1.Pod) { main(p).Ports[0].Name = "averyveryverylongname" }, []string{`spec.containers[0].ports[0].name: Invalid value: "averyveryverylongname": must be no more than 15 characters`}},
		{"an unknown protocol", func(p *corev1.Pod) { main(p).Ports[0].Protocol = "tcp" }, []string{`spec.containers[0].ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"`}},
		{"a host port twice", func(p *corev1.Pod) {
			main(p).Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}, {ContainerPort: 81, HostPort: 80}}
		}, []string{`spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//80"`}},
		{"a host port that differs on the host network", func(p *corev1.Pod) { p.Spec.HostNetwork = true; main(p).Ports[0].HostPort = 8080 },
			[]string{"spec.containers[0].ports[0].hostPort: Invalid value: 8080: must match `containerPort` when `hostNetwork` is true"}},
		{"a restart policy on a main container", func(p *corev1.Pod) { main(p).RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways) },
			[]string{"spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers"}},
		{"a probe on an init container", func(p *corev1.Pod) {
			p.Spec.InitContainers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}
		},
			[]string{"spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"}},
		{"a probe on a sidecar", func(p *corev1.Pod) {
			p.Spec.InitContainers[1].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}
		}, nil},
		{"ephemeral containers in a new pod", func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "busybox"}}}
		}, []string{"spec.ephemeralContainers: Forbidden: cannot be set on create"}},
	})
}

func TestPodEnvironmentIsChecked(t *testing.T) {
	kindtest.Create(t, Pod(), validPod, []podCase{
		{"a variable without a name", func(p *corev1.Pod) { main(p).Env[0].Name = "" }, []string{"spec.containers[0].env[0].name: Required value"}},
		{"a name with an equals sign", func(p *corev1.Pod) { main(p).Env[0].Name = "A=B" }, []string{`spec.containers[0].env[0].name: Invalid value: "A=B": a valid environment variable name`}},
		{"a value and a source", func(p *corev1.Pod) { main(p).Env[1].Value = "x" }, []string{`spec.containers[0].env[1].valueFrom: Invalid value: "": may not be specified when ` + "`value` is not empty"}},
		{"a source of nothing", func(p *corev1.Pod) { main(p).Env[1].ValueFrom = &corev1.EnvVarSource{} }, []string{`spec.containers[0].env[1].valueFrom: Invalid value: "": must specify one of: ` + "`fieldRef`, `resourceFieldRef`, `configMapKeyRef`"}},
		{"two sources", func(p *corev1.Pod) { main(p).Env[1].ValueFrom.SecretKeyRef = main(p).Env[2].ValueFrom.SecretKeyRef }, []string{`spec.containers[0].env[1].valueFrom: Invalid value: "": may not have more than one field specified at a time`}},
		{"a field that does not exist", func(p *corev1.Pod) { main(p).Env[1].ValueFrom.FieldRef.FieldPath = "status.podip" }, []string{`spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: "status.podip": error converting fieldPath: field label not supported: status.podip`}},
		{"a field that only volumes can show", func(p *corev1.Pod) { main(p).Env[1].ValueFrom.FieldRef.FieldPath = "metadata.labels" }, []string{`spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: "metadata.name", "metadata.namespace"`}},
		{"one label", func(p *corev1.Pod) {
			main(p).Env[1].ValueFrom.FieldRef.FieldPath = "metadata.labels['app.kubernetes.io/name']"
		}, nil},
		{"a secret without a name", func(p *corev1.Pod) { main(p).Env[2].ValueFrom.SecretKeyRef.Name = "" }, []string{"spec.containers[0].env[2].valueFrom.secretKeyRef.name: Required value"}},
		{"a key that cannot be", func(p *corev1.Pod) { main(p).Env[2].ValueFrom.SecretKeyRef.Key = "a/b" }, []string{`spec.containers[0].env[2].valueFrom.secretKeyRef.key: Invalid value: "a/b": a valid config key must consist of`}},
		{"a resource with the wrong divisor", func(p *corev1.Pod) {
			main(p).Env[1].ValueFrom = &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: quantity("2")}}
		}, []string{`spec.containers[0].env[1].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource`}},
		{"envFrom of nothing", func(p *corev1.Pod) { main(p).EnvFrom = []corev1.EnvFromSource{{}} }, []string{`spec.containers[0].envFrom[0]: Invalid value: "": must specify one of: ` + "`configMapRef` or `secretRef`"}},
	})
}

func TestPodVolumesAreChecked(t *testing.T) {
	kindtest.Create(t, Pod(), validPod, []podCase{
		{"a mount of no volume", func(p *corev1.Pod) { main(p).VolumeMounts[0].Name = "confg" }, []string{`spec.containers[0].volumeMounts[0].name: Not found: "confg"`}},
		{"a mount path twice", func(p *corev1.Pod) {
			main(p).VolumeMounts = append(main(p).VolumeMounts, corev1.VolumeMount{Name: "scratch", MountPath: "/etc/config"})
		}, []string{`spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/etc/config": must be unique`}},
		{"a mount without a path", func(p *corev1.Pod) { main(p).VolumeMounts[0].MountPath = "" }, []string{"spec.containers[0].volumeMounts[0].mountPath: Required value"}},
		{"a subPath that climbs", func(p *corev1.Pod) { main(p).VolumeMounts[0].SubPath = "a/../../b" }, []string{`spec.containers[0].volumeMounts[0].subPath: Invalid value: "a/../../b": must not contain '..'`}},
		{"an absolute subPath", func(p *corev1.Pod) { main(p).VolumeMounts[0].SubPath = "/a" }, []string{`spec.containers[0].volumeMounts[0].subPath: Invalid value: "/a": must be a relative path`}},
		{"a volume name twice", func(p *corev1.Pod) { p.Spec.Volumes[1].Name = "config" }, []string{`spec.volumes[1].name: Duplicate value: "config"`}},
		{"two sources", func(p *corev1.Pod) {
			p.Spec.Volumes[1].EmptyDir = &corev1.EmptyDirVolumeSource{}
			p.Spec.Volumes[1].Secret = &corev1.SecretVolumeSource{SecretName: "s"}
		}, []string{"spec.volumes[1].secret: Forbidden: may not specify more than 1 volume type"}},
		{"a secret without a name", func(p *corev1.Pod) { p.Spec.Volumes[1].Secret = &corev1.SecretVolumeSource{} }, []string{"spec.volumes[1].secret.secretName: Required value"}},
		{"a mode out of range", func(p *corev1.Pod) {
			p.Spec.Volumes[1].Secret = &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: ptr.To[int32](0o1000)}
		}, []string{"spec.volumes[1].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive"}},
		{"an item that climbs", func(p *corev1.Pod) {
			p.Spec.Volumes[1].ConfigMap = &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}, Items: []corev1.KeyToPath{{Key: "k", Path: "../x"}}}
		}, []string{`spec.volumes[1].configMap.items[0].path: Invalid value: "../x": must not contain '..'`}},
		{"a token for a minute", func(p *corev1.Pod) {
			p.Spec.Volumes[1].Projected = &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](60)}}}}
		}, []string{"spec.volumes[1].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes"}},
		{"a projected path twice", func(p *corev1.Pod) {
			token := corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}
			p.Spec.Volumes[1].Projected = &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{token, token}}
		}, []string{`spec.volumes[1].projected.sources[1]: Invalid value: "token": conflicting duplicate paths`}},
		{"a host path that climbs", func(p *corev1.Pod) { p.Spec.Volumes[1].HostPath = &corev1.HostPathVolumeSource{Path: "/a/../b"} }, []string{`spec.volumes[1].hostPath.path: Invalid value: "/a/../b": must not contain '..'`}},
	})
}

func TestPodResourcesAreChecked(t *testing.T) {
	limit := func(name, amount string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { main(p).Resources.Limits[corev1.ResourceName(name)] = quantity(amount) }
	}
	request := func(name, amount string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { main(p).Resources.Requests[corev1.ResourceName(name)] = quantity(amount) }
	}
	kindtest.Create(t, Pod(), validPod, []podCase{
		{"more asked than allowed", request("cpu", "2"), []string{`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 200m`}},
		{"less than nothing", limit("memory", "-1"), []string{
			`spec.containers[0].resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0`,
			`spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0`}},
		{"a misspelt resource", limit("memroy", "1"), []string{
			`spec.containers[0].resources.limits[memroy]: Invalid value: "memroy": must be a standard resource for containers`,
			`spec.containers[0].resources.requests[memroy]: Invalid value: "memroy": must be a standard resource for containers`}},
		{"half a device", limit("example.com/gpu", "500m"), []string{
			`spec.containers[0].resources.limits[example.com/gpu]: Invalid value: "500m": must be an integer`,
			`spec.containers[0].resources.requests[example.com/gpu]: Invalid value: "500m": must be an integer`}},
		{"a device asked for without a limit", request("example.com/gpu", "1"), []string{"spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources"}},
		{"a device shared", func(p *corev1.Pod) { limit("example.com/gpu", "2")(p); request("example.com/gpu", "1")(p) },
			[]string{`spec.containers[0].resources.requests: Invalid value: "1": must be equal to example.com/gpu limit of 2`}},
		{"huge pages alone", func(p *corev1.Pod) {
			main(p).Resources = corev1.ResourceRequirements{Limits: corev1.ResourceList{"hugepages-2Mi": quantity("4Mi")}}
		}, []string{"spec.containers[0].resources: Forbidden: HugePages require cpu or memory"}},
		{"a pod that asks for less than its containers", func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": quantity("10m")}}
		}, []string{`spec.resources.requests[cpu]: Invalid value: "10m": must be greater than or equal to aggregate container requests of 100m`}},
	})
}

func TestPodProbesAreChecked(t *testing.T) {
	kindtest.Create(t, Pod(), validPod, []podCase{
		{"a probe that does nothing", func(p *corev1.Pod) { main(p).LivenessProbe = &corev1.Probe{} }, []string{"spec.containers[0].livenessProbe: Required value: must specify a handler type"}},
		{"a probe that does two things", func(p *corev1.Pod) {
			main(p).ReadinessProbe.TCPSocket = &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}
		}, []string{"spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"}},
		{"a port out of range", func(p *corev1.Pod) { main(p).ReadinessProbe.HTTPGet.Port = intstr.FromInt32(70000) }, []string{"spec.containers[0].readinessProbe.httpGet.port: Invalid value: 70000: must be between 1 and 65535, inclusive"}},
		{"a negative number", func(p *corev1.Pod) { main(p).ReadinessProbe.PeriodSeconds = -1 }, []string{"spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0"}},
		{"two successes to live", func(p *corev1.Pod) {
			main(p).LivenessProbe = main(p).ReadinessProbe.DeepCopy()
			main(p).LivenessProbe.SuccessThreshold = 2
		}, []string{"spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"}},
		{"an empty command", func(p *corev1.Pod) {
			main(p).Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{}}}
		}, []string{"spec.containers[0].lifecycle.preStop.exec.command: Required value"}},
		{"a sleep longer than the grace period", func(p *corev1.Pod) {
			main(p).Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 31}}}
		}, []string{"spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)"}},
	})
}

func TestPodPlacementAndSecurityAreChecked(t *testing.T) {
	kindtest.Create(t, Pod(), validPod, []podCase{
		{"an unknown restart policy", func(p *corev1.Pod) { p.Spec.RestartPolicy = "Maybe" }, []string{`spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never"`}},
		{"an unknown DNS policy", func(p *corev1.Pod) { p.Spec.DNSPolicy = "Google" }, []string{`spec.dnsPolicy: Unsupported value: "Google": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"`}},
		{"no DNS at all", func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSNone }, []string{"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"}},
		{"a deadline of zero", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](0) }, []string{"spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"}},
		{"a hostname with a dot", func(p *corev1.Pod) { p.Spec.Hostname = "a.b" }, []string{`spec.hostname: Invalid value: "a.b": must not contain dots`}},
		{"a bad node selector", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a b": "c"} }, []string{`spec.nodeSelector: Invalid value: "a b": name part must consist of`}},
		{"a toleration for all without Exists", func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Value: "x"}} }, []string{`spec.tolerations[0].operator: Invalid value: "": operator must be Exists when`}},
		{"a toleration with an end and no effect", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "k", TolerationSeconds: ptr.To[int64](1)}}
		}, []string{`spec.tolerations[0].effect: Invalid value: "": effect must be 'NoExecute' when`}},
		{"affinity to nothing", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{}}}
		},
			[]string{"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term"}},
		{"anti-affinity without a topology", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{}}}}
		},
			[]string{"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
				`spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must be non-empty`,
				`spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must consist of`}},
		{"no skew", func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule}}
		}, []string{"spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"}},
		{"a gate and a node", func(p *corev1.Pod) {
			p.Spec.NodeName = "n"
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		}, []string{"spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"}},
		{"privileged without escalation", func(p *corev1.Pod) {
			main(p).SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false)}
		},
			[]string{"spec.containers[0].securityContext: Invalid value: {"}},
		{"a negative user", func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](-1)} }, []string{"spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"}},
		{"a seccomp profile without a file", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost}}
		},
			[]string{"spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost"}},
		{"a host alias that is no address", func(p *corev1.Pod) { p.Spec.HostAliases = []corev1.HostAlias{{IP: "1.2.3"}} }, []string{`spec.hostAliases[0].ip: Invalid value: "1.2.3": must be a valid IP address`}},
	})
}

func TestPodUpdatesKeepWhatRuns(t *testing.T) {
	only := "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`," +
		"`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations)," +
		"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"
	valid := func() *corev1.Pod {
		p := validPod()
		p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
		p.Spec.ActiveDeadlineSeconds = ptr.To[int64](100)
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		return p
	}
	kindtest.Update(t, Pod(), valid, []podCase{
		{"nothing", func(*corev1.Pod) {}, nil},
		{"a label", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }, nil},
		{"images", func(p *corev1.Pod) { main(p).Image = "nginx:1.18"; p.Spec.InitContainers[0].Image = "busybox:1.37" }, nil},
		{"no image", func(p *corev1.Pod) { main(p).Image = "" }, []string{"spec.containers[0].image: Required value"}},
		{"one more toleration", func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: "l", Operator: corev1.TolerationOpExists})
		}, nil},
		{"one toleration less", func(p *corev1.Pod) { p.Spec.Tolerations = nil }, []string{"spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"}},
		{"a shorter deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](10) }, nil},
		{"a longer deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](1000) }, []string{"spec.activeDeadlineSeconds: Invalid value: 1000: must be less than or equal to previous value"}},
		{"no deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = nil }, []string{"spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"}},
		{"a gate gone", func(p *corev1.Pod) { p.Spec.SchedulingGates = nil }, nil},
		{"a new gate", func(p *corev1.Pod) { p.Spec.SchedulingGates[0].Name = "h" }, []string{"spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'h'"}},
		{"a command", func(p *corev1.Pod) { main(p).Command = []string{"sh"} }, []string{only}},
		{"resources", func(p *corev1.Pod) { main(p).Resources.Limits["cpu"] = quantity("1") }, []string{only}},
		{"the node", func(p *corev1.Pod) { p.Spec.NodeName = "n"; p.Spec.SchedulingGates = nil }, []string{only}},
		{"one more container", func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "x", Image: "y"})
		}, []string{"spec.containers: Forbidden: pod updates may not add or remove containers"}},
	})
}

func TestPodStatusMovesForward(t *testing.T) {
	valid := func() *corev1.Pod {
		p := validPod()
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Status = corev1.PodStatus{QOSClass: corev1.PodQOSBurstable, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}}}
		return p
	}
	kindtest.StatusUpdate(t, Pod(), valid, []podCase{
		{"nothing", func(*corev1.Pod) {}, nil},
		{"running again", func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		}, []string{"status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"}},
		{"another class", func(p *corev1.Pod) { p.Status.QOSClass = corev1.PodQOSGuaranteed }, []string{`status.qosClass: Invalid value: "Guaranteed": field is immutable`}},
		{"a second IPv4 address", func(p *corev1.Pod) { p.Status.PodIPs[1].IP = "10.0.0.2" }, []string{"status.podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.2\"}]: may specify no more than one IP for each IP family"}},
		{"not an address", func(p *corev1.Pod) { p.Status.PodIPs[1].IP = "fd00" }, []string{`status.podIPs[1]: Invalid value: "fd00": must be a valid IP address`}},
		{"two main addresses", func(p *corev1.Pod) { p.Status.PodIP = "10.0.0.3" }, []string{`status.podIPs[0].ip: Invalid value: "10.0.0.1": must be equal to ` + "`podIP`"}},
	})
}

func TestPodDefaults(t *testing.T) {
	pod := validPod()
	pod.Spec.ServiceAccountName = "bot"
	kindtest.DefaultsOnce(t, Pod(), pod)
	want := parse[corev1.PodSpec](`
dnsPolicy: ClusterFirst
enableServiceLinks: true
restartPolicy: Always
schedulerName: default-scheduler
securityContext: {}
serviceAccount: bot
serviceAccountName: bot
terminationGracePeriodSeconds: 30
initContainers:
- {name: prepare, image: "busybox:1.36", imagePullPolicy: IfNotPresent, resources: {}, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
- {name: sidecar, image: "busybox:1.36", restartPolicy: Always, imagePullPolicy: IfNotPresent, resources: {}, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
containers:
- name: main
  image: nginx:1.17.1
  imagePullPolicy: IfNotPresent
  terminationMessagePath: /dev/termination-log
  terminationMessagePolicy: File
  ports:
  - {name: http, containerPort: 80, protocol: TCP}
  - {name: dns, containerPort: 53, protocol: UDP}
  env:
  - {name: A, value: b}
  - {name: IP, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: status.podIP}}}
  - {name: KEY, valueFrom: {secretKeyRef: {name: s, key: k}}}
  resources: {limits: {cpu: 200m, memory: 64Mi}, requests: {cpu: 100m, memory: 64Mi}}
  readinessProbe:
    httpGet: {path: /, port: http, scheme: HTTP}
    failureThreshold: 3
    periodSeconds: 10
    successThreshold: 1
    timeoutSeconds: 1
  volumeMounts: [{name: config, mountPath: /etc/config}]
volumes:
- {name: config, configMap: {name: c, defaultMode: 420}}
- {name: scratch, emptyDir: {}}
`)
	if d := diffSpecs(want, &pod.Spec); d != "" {
		t.Errorf("defaulted pod (-want +got):\n%s", d)
	}
}

func diffSpecs(want, got *corev1.PodSpec) string {
	a, errA := yaml.Marshal(want)
	b, errB := yaml.Marshal(got)
	if errA != nil || errB != nil {
		return "cannot be marshalled"
	}
	return cmp.Diff(string(a), string(b))
}

func TestPullPolicyFollowsTheTag(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx":                  corev1.PullAlways,
		"nginx:latest":           corev1.PullAlways,
		"nginx:1.17.1":           corev1.PullIfNotPresent,
		"localhost:5000/nginx":   corev1.PullAlways,
		"localhost:5000/nginx:1": corev1.PullIfNotPresent,
		"nginx@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef": corev1.PullIfNotPresent,
		"":             corev1.PullIfNotPresent,
		"NOT an image": corev1.PullIfNotPresent,
	} {
		if got := pullPolicyFor(image); got != want {
			t.Errorf("%q: %s, want %s", image, got, want)
		}
	}
}

func TestNewPodsStartPending(t *testing.T) {
	pod := validPod()
	pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "1.2.3.4"}
	Pod().Default(pod)
	Pod().PrepareForCreate(t.Context(), pod)
	want := corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable, Conditions: []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "SchedulingGated", Message: "Scheduling is blocked due to non-empty scheduling gates"}}}
	if d := cmp.Diff(want, pod.Status); d != "" || pod.Generation != 1 {
		t.Errorf("generation %d, status (-want +got):\n%s", pod.Generation, d)
	}
}

func TestPodsAreGivenTimeToStop(t *testing.T) {
	for _, tc := range []struct {
		name    string
		node    string
		phase   corev1.PodPhase
		spec    *int64
		options *int64
		want    int64
	}{
		{"the pod's own period", "n", corev1.PodRunning, ptr.To[int64](30), nil, 30},
		{"the client's period", "n", corev1.PodRunning, ptr.To[int64](30), ptr.To[int64](5), 5},
		{"force", "n", corev1.PodRunning, ptr.To[int64](30), ptr.To[int64](0), 0},
		{"a negative period is the shortest", "n", corev1.PodRunning, ptr.To[int64](-3), nil, 1},
		{"no node has it", "", corev1.PodPending, ptr.To[int64](30), nil, 0},
		{"it has ended", "n", corev1.PodSucceeded, ptr.To[int64](30), nil, 0},
		{"it has failed", "n", corev1.PodFailed, ptr.To[int64](30), ptr.To[int64](7), 0},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: tc.node, TerminationGracePeriodSeconds: tc.spec}, Status: corev1.PodStatus{Phase: tc.phase}}
		options := &metav1.DeleteOptions{GracePeriodSeconds: tc.options}
		if !Pod().GracefulDelete(t.Context(), pod, options) || *options.GracePeriodSeconds != tc.want {
			t.Errorf("%s: %v seconds, want %d", tc.name, *options.GracePeriodSeconds, tc.want)
		}
	}
}

func ago(d time.Duration) metav1.Time { return metav1.NewTime(time.Now().Add(-d)) }

func TestPodLines(t *testing.T) {
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
	}
	ended := func(reason string, code int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code}}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	base := func() *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: ago(50 * time.Hour)},
			Spec:       corev1.PodSpec{Containers: make([]corev1.Container, 2)},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning},
		}
	}
	statuses := func(states ...corev1.ContainerState) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			for _, s := range states {
				p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{State: s, Ready: s.Running != nil})
			}
		}
	}
	inits := func(sidecar bool, states ...corev1.ContainerState) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			for i, s := range states {
				name := string(rune('a' + i))
				c := corev1.Container{Name: name}
				if sidecar {
					c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
				}
				p.Spec.InitContainers = append(p.Spec.InitContainers, c)
				p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses,
					corev1.ContainerStatus{Name: name, State: s, Ready: s.Running != nil, Started: ptr.To(s.Running != nil)})
			}
		}
	}
	deleted := func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Now()) }
	all := func(changes ...func(*corev1.Pod)) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			for _, change := range changes {
				change(p)
			}
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*corev1.Pod)
		want   []any
	}{
		{"running", statuses(running, running), []any{"p", "2/2", "Running", "0", "2d2h"}},
		{"pending", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, []any{"p", "0/2", "Pending", "0", "2d2h"}},
		{"gated", func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Reason: corev1.PodReasonSchedulingGated}}
		}, []any{"p", "0/2", "SchedulingGated", "0", "2d2h"}},
		{"creating", statuses(waiting("ContainerCreating"), waiting("ContainerCreating")), []any{"p", "0/2", "ContainerCreating", "0", "2d2h"}},
		{"crashing", all(statuses(waiting("CrashLoopBackOff"), running), func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].RestartCount = 4
			p.Status.ContainerStatuses[0].LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: ago(49 * time.Hour)}}
		}), []any{"p", "1/2", "CrashLoopBackOff", "4 (2d1h ago)", "2d2h"}},
		{"no image", statuses(running, waiting("ImagePullBackOff")), []any{"p", "1/2", "ImagePullBackOff", "0", "2d2h"}},
		{"completed", all(statuses(ended("Completed", 0), ended("Completed", 0)), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), []any{"p", "0/2", "Completed", "0", "2d2h"}},
		{"one completed, not ready", statuses(ended("Completed", 0), running), []any{"p", "1/2", "NotReady", "0", "2d2h"}},
		{"failed without a reason", statuses(ended("", 3), running), []any{"p", "1/2", "ExitCode:3", "0", "2d2h"}},
		{"initialising", inits(false, ended("Completed", 0), running), []any{"p", "0/2", "Init:1/2", "0", "2d2h"}},
		{"init crashing", inits(false, waiting("CrashLoopBackOff")), []any{"p", "0/2", "Init:CrashLoopBackOff", "0", "2d2h"}},
		{"init failed", inits(false, ended("Error", 1)), []any{"p", "0/2", "Init:Error", "0", "2d2h"}},
		{"sidecar up", all(inits(true, running), statuses(running, running), func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }), []any{"p", "3/3", "Running", "0", "2d2h"}},
		{"going", all(statuses(running, running), deleted), []any{"p", "2/2", "Terminating", "0", "2d2h"}},
		{"going from a lost node", all(statuses(running, running), deleted, func(p *corev1.Pod) { p.Status.Reason = "NodeLost" }), []any{"p", "2/2", "Unknown", "0", "2d2h"}},
		{"evicted", func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted" }, []any{"p", "0/2", "Evicted", "0", "2d2h"}},
	} {
		pod := base()
		tc.change(pod)
		if d := cmp.Diff(tc.want, kindtest.Line(Pod(), pod, false)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
	}
	pod := base()
	pod.Spec.NodeName, pod.Status.PodIPs = "n1", []corev1.PodIP{{IP: "10.0.0.7"}}
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "x"}, {ConditionType: "y"}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: "y", Status: corev1.ConditionTrue}}
	want := []any{"p", "0/2", "Running", "0", "2d2h", "10.0.0.7", "n1", "<none>", "1/2"}
	if d := cmp.Diff(want, kindtest.Line(Pod(), pod, true)); d != "" {
		t.Errorf("wide (-want +got):\n%s", d)
	}
}
