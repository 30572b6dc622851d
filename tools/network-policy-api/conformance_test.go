// Package networkpolicyapi runs the conformance suite of ClusterNetworkPolicy that its own project has made, against
// the cluster of $KUBECONFIG, and writes the suite's report. `go run ./test/upstream --set=cluster-network-policy`
// brings the cluster, the CRD and the images, and calls it.
package networkpolicyapi

import (
	"context"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"
	report "sigs.k8s.io/network-policy-api/conformance/apis/v1alpha1"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/config"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
	"sigs.k8s.io/yaml"
)

var (
	output  = flag.String("report", "", "file for the report")
	sctp    = flag.Bool("sctp", false, "the nodes' kernel speaks SCTP")
	version = flag.String("implementation", "dev", "version of Weftnet")
	only    = flag.String("only", "", "names of tests, with commas between; none means all")
)

func TestConformance(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("no cluster: go run ./test/upstream --set=cluster-network-policy")
	}
	s, err := newSuite()
	if err != nil {
		t.Fatal(err)
	}
	s.Setup(t)
	if err := s.Run(t, chosen()); err != nil {
		t.Fatal(err)
	}
	made, err := s.Report()
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("report:\n%s", text)
	if *output != "" {
		if err := os.WriteFile(*output, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func newSuite() (*suite.ConformanceProfileTestSuite, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		return nil, err
	}
	if err := v1alpha2.Install(c.Scheme()); err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	timeouts := config.DefaultTimeoutConfig()
	// A cluster on two cores: the suite bounds neither.
	timeouts.PokeTimeout, timeouts.DeleteTimeout = 40*time.Second, time.Minute
	return suite.NewConformanceProfileTestSuite(suite.ConformanceProfileOptions{
		Options: suite.Options{
			Client: withoutSCTP{c}, ClientSet: clients, KubeConfig: *cfg,
			CleanupBaseResources: true,
			SupportedFeatures:    suite.AllFeatures.Clone(),
			SkipTests:            skipped(),
			TimeoutConfig:        timeouts,
		},
		ConformanceProfiles: sets.New(suite.CNPConformanceProfileName),
		Implementation: report.Implementation{
			Organization: "weftnet", Project: "weftnet", URL: "https://github.com/weftnet/weftnet",
			Version: *version, Contact: []string{"https://github.com/weftnet/weftnet/issues"},
			AdditionalInformation: "docs/upstream.md",
		},
	})
}

func chosen() []suite.ConformanceTest {
	if *only == "" {
		return tests.ConformanceTests
	}
	var out []suite.ConformanceTest
	for _, test := range tests.ConformanceTests {
		for name := range strings.SplitSeq(*only, ",") {
			if test.ShortName == name {
				out = append(out, test)
			}
		}
	}
	return out
}

// skipped are the tests of nothing but SCTP, where the kernel does not speak it.
func skipped() []string {
	var names []string
	for _, test := range tests.ConformanceTests {
		if !*sctp && strings.HasSuffix(test.ShortName, "SCTP") {
			names = append(names, test.ShortName)
		}
	}
	return names
}

// withoutSCTP leaves the containers that serve SCTP out of the suite's Pods, where the kernel does not speak it:
// they would end at once, and no Pod would ever be ready.
type withoutSCTP struct{ client.Client }

func (c withoutSCTP) Create(ctx context.Context, object client.Object, options ...client.CreateOption) error {
	if err := dropSCTP(object); err != nil {
		return err
	}
	return c.Client.Create(ctx, object, options...)
}

func (c withoutSCTP) Update(ctx context.Context, object client.Object, options ...client.UpdateOption) error {
	if err := dropSCTP(object); err != nil {
		return err
	}
	return c.Client.Update(ctx, object, options...)
}

func dropSCTP(object client.Object) error {
	u, isUnstructured := object.(*unstructured.Unstructured)
	if *sctp || !isUnstructured || u.GetKind() != "StatefulSet" {
		return nil
	}
	var set appsv1.StatefulSet
	convert := runtime.DefaultUnstructuredConverter
	if err := convert.FromUnstructured(u.Object, &set); err != nil {
		return err
	}
	var kept []corev1.Container
	for _, c := range set.Spec.Template.Spec.Containers {
		if !servesSCTP(c) {
			kept = append(kept, c)
		}
	}
	set.Spec.Template.Spec.Containers = kept
	content, err := convert.ToUnstructured(&set)
	if err != nil {
		return err
	}
	u.Object = content
	return nil
}

func servesSCTP(c corev1.Container) bool {
	for _, e := range c.Env {
		if strings.HasPrefix(e.Name, "SERVE_SCTP_PORT_") {
			return true
		}
	}
	return false
}
