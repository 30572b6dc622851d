package v1alpha1

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// loadCRD reads one generated definition into the form that the API server works on.
func loadCRD(t *testing.T, plural string) *apiextensions.CustomResourceDefinition {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "weftnet.io_"+plural+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var external apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &external); err != nil {
		t.Fatal(err)
	}
	// What the API server fills in before it validates.
	apiextensionsv1.SetDefaults_CustomResourceDefinition(&external)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&external.Spec)
	external.Status.StoredVersions = []string{GroupVersion.Version}
	var internal apiextensions.CustomResourceDefinition
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&external, &internal, nil); err != nil {
		t.Fatal(err)
	}
	return &internal
}

// TestDefinitionsAreAccepted runs the API server's own check: structural schemas, defaults that
// fit, CEL that compiles and stays within the cost budget.
func TestDefinitionsAreAccepted(t *testing.T) {
	for _, plural := range []string{"meshnodes", "ippools", "nodeblocks", "meshconfigs"} {
		t.Run(plural, func(t *testing.T) {
			errs := crdvalidation.ValidateCustomResourceDefinition(context.Background(), loadCRD(t, plural))
			for _, err := range errs {
				t.Error(err)
			}
		})
	}
}

// admit returns the messages with which the API server would refuse the object, none when it
// would take it. old is nil on creation.
func admit(t *testing.T, crd *apiextensions.CustomResourceDefinition, object, old string) []string {
	t.Helper()
	schema := crd.Spec.Validation
	if schema == nil {
		schema = crd.Spec.Versions[0].Schema
	}
	structural, err := structuralschema.NewStructural(schema.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	validator, _, err := validation.NewSchemaValidator(schema.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	parse := func(text string) map[string]any {
		if text == "" {
			return nil
		}
		var value map[string]any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		value = integers(value).(map[string]any)
		defaulting.Default(value, structural)
		return value
	}
	value, before := parse(object), parse(old)
	errs := validation.ValidateCustomResource(nil, value, validator)
	var oldValue any
	if before != nil {
		oldValue = before
	}
	celErrs, _ := cel.NewValidator(structural, true, celconfig.PerCallLimit).
		Validate(context.Background(), field.NewPath(""), structural, value, oldValue, celconfig.RuntimeCELCostBudget)
	var messages []string
	for _, err := range append(errs, celErrs...) {
		messages = append(messages, err.Error())
	}
	return messages
}

// integers turns the whole floats that YAML gave into integers, as the API server decodes them.
func integers(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key := range v {
			v[key] = integers(v[key])
		}
	case []any:
		for i := range v {
			v[i] = integers(v[i])
		}
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
	}
	return value
}

func pool(ranges string) string {
	return "metadata: {name: p}\nspec: {cidrs: [" + ranges + "]}"
}

func TestAdmission(t *testing.T) {
	tests := []struct {
		name, plural, object, old string
		refusal                   string // part of the message; empty: accepted
	}{
		{name: "dual stack pool", plural: "ippools",
			object: pool(`{cidr: 10.244.0.0/16}, {cidr: "fd00:10:244::/48"}`)},
		{name: "pool with block sizes", plural: "ippools",
			object: pool(`{cidr: 10.244.0.0/20, blockSize: 26}, {cidr: "fd00:10:244::/56", blockSize: 72}`)},
		{name: "pool of one block", plural: "ippools",
			object: pool(`{cidr: 10.244.0.0/24}, {cidr: "fd00:10:244::/64", blockSize: 64}`)},
		{name: "IPv4 host bits", plural: "ippools", object: pool(`{cidr: 10.244.3.0/16}`),
			refusal: "cidr 10.244.3.0/16 is not in canonical form: bits are set after the prefix length"},
		{name: "IPv6 host bits", plural: "ippools", object: pool(`{cidr: "fd00:10:244::1/48"}`),
			refusal: "cidr fd00:10:244::1/48 is not in canonical form: bits are set after the prefix length"},
		{name: "IPv6 spelling", plural: "ippools", object: pool(`{cidr: "FD00:10:0244:0::/48"}`),
			refusal: "write it in lower case"},
		{name: "IPv4 leading zero", plural: "ippools", object: pool(`{cidr: 010.244.0.0/16}`),
			refusal: "is not a range of addresses"},
		{name: "not a range", plural: "ippools", object: pool(`{cidr: lots}`),
			refusal: "cidr lots is not a range of addresses: write one such as 10.244.0.0/16"},
		{name: "IPv4 block larger than pool", plural: "ippools", object: pool(`{cidr: 10.244.0.0/16, blockSize: 12}`),
			refusal: "blockSize asks for blocks larger than the range 10.244.0.0/16 itself"},
		{name: "v4 bits in a v6 pool", plural: "ippools", object: pool(`{cidr: "fd00:10:244::/48", blockSize: 24}`),
			refusal: "blockSize asks for blocks larger than the range fd00:10:244::/48 itself: it is a prefix length"},
		{name: "v6 bits in a v4 pool", plural: "ippools", object: pool(`{cidr: 10.244.0.0/16, blockSize: 64}`),
			refusal: "blockSize does not fit the IPv4 range 10.244.0.0/16"},
		{name: "IPv4 smaller than default block", plural: "ippools", object: pool(`{cidr: 10.244.0.0/25}`),
			refusal: "is smaller than one block of the default size"},
		{name: "IPv6 smaller than default block", plural: "ippools", object: pool(`{cidr: "fd00:10:244::/80"}`),
			refusal: "is smaller than one block of the default size"},
		{name: "too many blocks", plural: "ippools", object: pool(`{cidr: "fd00::/16", blockSize: 120}`),
			refusal: "more than 2^48 blocks"},
		{name: "too many default blocks", plural: "ippools", object: pool(`{cidr: "fc00::/7"}`),
			refusal: "more than 2^48 blocks of the default size /64"},
		{name: "loopback", plural: "ippools", object: pool(`{cidr: 127.0.0.0/16}`), refusal: "cannot be given to Pods"},
		{name: "link-local", plural: "ippools", object: pool(`{cidr: "fe80::/48"}`), refusal: "cannot be given to Pods"},
		{name: "overlapping ranges", plural: "ippools", object: pool(`{cidr: 10.244.0.0/16}, {cidr: 10.244.8.0/21}`),
			refusal: "two ranges of the pool overlap"},
		{name: "no ranges", plural: "ippools", object: pool(``), refusal: "at least 1"},

		{name: "MeshConfig default", plural: "meshconfigs", object: "metadata: {name: default}"},
		{name: "MeshConfig with everything", plural: "meshconfigs",
			object: `{metadata: {name: default}, spec: {mtu: 1380, keepalive: 1m30s, listenPort: 51871, backend: Userspace, noMasqueradeCIDRs: [192.168.0.0/16, "2001:db8::/32"]}}`},
		{name: "MeshConfig misnamed", plural: "meshconfigs", object: "metadata: {name: other}",
			refusal: "there is one MeshConfig, and its name is default"},
		{name: "MTU too small for IPv6", plural: "meshconfigs", object: "{metadata: {name: default}, spec: {mtu: 1000}}",
			refusal: "mtu must be 0 (derive it from the underlay) or at least 1280"},
		{name: "keepalive too long", plural: "meshconfigs", object: "{metadata: {name: default}, spec: {keepalive: 24h}}",
			refusal: "keepalive must be at most 65535s"},
		{name: "keepalive without unit", plural: "meshconfigs", object: `{metadata: {name: default}, spec: {keepalive: "25"}}`,
			refusal: "keepalive"},
		{name: "unknown backend", plural: "meshconfigs", object: "{metadata: {name: default}, spec: {backend: Magic}}",
			refusal: "Unsupported value"},
		{name: "masquerade exception with host bits", plural: "meshconfigs",
			object: "{metadata: {name: default}, spec: {noMasqueradeCIDRs: [192.168.1.1/16]}}", refusal: "noMasqueradeCIDRs must be ranges"},

		{name: "MeshNode waiting", plural: "meshnodes", object: "metadata: {name: n}"},
		{name: "MeshNode dual stack", plural: "meshnodes",
			object: `{metadata: {name: n}, spec: {podCIDRs: [10.244.3.0/24, "fd00:10:244:3::/64"], meshIPs: [10.244.3.1, "fd00:10:244:3::1"], nodeIPs: [10.200.0.11, "fd00:c8::11"]}}`},
		{name: "MeshNode status", plural: "meshnodes",
			object: `{metadata: {name: n}, status: {publicKey: "jnQwPaBd5rCgiW4nA5c0Xyi7mTtvtgEM0TbzG4pYo2c=", keyEpoch: 1, endpoints: [10.200.0.11, "fd00:c8::11"], listenPort: 51820, mtu: 1440, backend: Kernel, peers: {expected: 2, connected: 2}}}`},
		{name: "Pod CIDR with host bits", plural: "meshnodes", object: `{metadata: {name: n}, spec: {podCIDRs: [10.244.3.1/24]}}`,
			refusal: "podCIDRs must be ranges of addresses in canonical form"},
		{name: "mesh address outside", plural: "meshnodes", object: `{metadata: {name: n}, spec: {podCIDRs: [10.244.3.0/24], meshIPs: [10.244.4.1]}}`,
			refusal: "every mesh address must lie in one of the node's podCIDRs"},
		{name: "node address inside", plural: "meshnodes", object: `{metadata: {name: n}, spec: {podCIDRs: [10.244.3.0/24], nodeIPs: [10.244.3.9]}}`,
			refusal: "a node address must not lie in the node's podCIDRs"},
		{name: "node address as a range", plural: "meshnodes", object: `{metadata: {name: n}, spec: {nodeIPs: ["fd00:c8::11/128"]}}`,
			refusal: "nodeIPs must be plain IP addresses"},
		{name: "key that is no key", plural: "meshnodes", object: `{metadata: {name: n}, status: {publicKey: secret}}`, refusal: "publicKey"},
		{name: "endpoint with port", plural: "meshnodes", object: `{metadata: {name: n}, status: {endpoints: ["10.200.0.11:51820"]}}`,
			refusal: "endpoints must be plain IP addresses"},
		{name: "status backend Auto", plural: "meshnodes", object: `{metadata: {name: n}, status: {backend: Auto}}`, refusal: "Unsupported value"},

		{name: "NodeBlock", plural: "nodeblocks", object: `{metadata: {name: 10.244.3.0-24}, spec: {cidr: 10.244.3.0/24, node: node1, pool: p}}`},
		{name: "NodeBlock misnamed", plural: "nodeblocks", object: `{metadata: {name: mine}, spec: {cidr: 10.244.3.0/24, node: node1}}`,
			refusal: "a NodeBlock is named after its block"},
		{name: "NodeBlock handed on", plural: "nodeblocks",
			old:     `{metadata: {name: 10.244.3.0-24}, spec: {cidr: 10.244.3.0/24, node: node1, pool: p}}`,
			object:  `{metadata: {name: 10.244.3.0-24}, spec: {cidr: 10.244.3.0/24, node: other, pool: p}}`,
			refusal: "a NodeBlock cannot be changed"},
		{name: "NodeBlock cooling", plural: "nodeblocks",
			old:    `{metadata: {name: fd00-10-244-3---64}, spec: {cidr: "fd00:10:244:3::/64", node: node1}}`,
			object: `{metadata: {name: fd00-10-244-3---64}, spec: {cidr: "fd00:10:244:3::/64", node: node1}, status: {state: Cooling, cooldownLeft: 5m0s}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			messages := admit(t, loadCRD(t, tt.plural), tt.object, tt.old)
			got := strings.Join(messages, "\n")
			if tt.refusal == "" && len(messages) > 0 {
				t.Errorf("refused:\n%s", got)
			}
			if tt.refusal != "" && !strings.Contains(got, tt.refusal) {
				t.Errorf("want a refusal with %q, got %s", tt.refusal, fmt.Sprintf("%q", messages))
			}
		})
	}
}
