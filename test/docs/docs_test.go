package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// pages are all Markdown files of the repository, by path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		matches, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range matches {
			name, err := filepath.Rel(root, path)
			if err != nil {
				t.Fatal(err)
			}
			found[name] = read(t, name)
		}
	}
	if len(found) < 5 {
		t.Fatalf("only %d pages found", len(found))
	}
	return found
}

// matches are the distinct first groups of a pattern in a text, sorted.
func matches(text, pattern string) []string {
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// source is all Go code of the product, tests left out.
func source(t *testing.T, folders ...string) string {
	t.Helper()
	var all strings.Builder
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

func TestEveryValueIsDocumented(t *testing.T) {
	var values map[string]any
	if err := yaml.Unmarshal([]byte(read(t, "helm/weftnet/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	page := read(t, "docs/configuration.md")
	documented := matches(page, "(?m)^\\| `([a-zA-Z]+(?:\\.[a-zA-Z]+)*)` \\| [^|]+ \\| [^|]*\\|$")
	var paths []string
	var walk func(prefix string, value any)
	walk = func(prefix string, value any) {
		branch, ok := value.(map[string]any)
		if !ok || len(branch) == 0 || slices.Contains(documented, prefix) {
			paths = append(paths, prefix)
			return
		}
		for key, child := range branch {
			walk(strings.TrimPrefix(prefix+"."+key, "."), child)
		}
	}
	walk("", values)
	if len(paths) < 20 {
		t.Fatalf("only %d values found", len(paths))
	}
	for _, path := range paths {
		if !slices.Contains(documented, path) {
			t.Errorf("docs/configuration.md does not have the value %s", path)
		}
	}
	for _, path := range documented {
		if !slices.Contains(paths, path) && !strings.HasPrefix(path, "spec.") && !strings.HasPrefix(path, "status.") {
			t.Errorf("docs/configuration.md has %s, which values.yaml has not", path)
		}
	}
}

func TestEveryFieldIsDocumented(t *testing.T) {
	page := read(t, "docs/configuration.md")
	for _, kind := range []string{"meshnodes", "ippools", "meshconfigs", "nodeblocks"} {
		var crd struct {
			Spec struct {
				Versions []struct {
					Schema struct {
						OpenAPIV3Schema struct {
							Properties map[string]struct {
								Properties map[string]any `json:"properties"`
							} `json:"properties"`
						} `json:"openAPIV3Schema"`
					} `json:"schema"`
				} `json:"versions"`
			} `json:"spec"`
		}
		if err := yaml.Unmarshal([]byte(read(t, "crds/weftnet.io_"+kind+".yaml")), &crd); err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"spec", "status"} {
			fields := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties[part].Properties
			if len(fields) == 0 {
				t.Errorf("%s has no %s", kind, part)
			}
			for field := range fields {
				if !strings.Contains(page, "`"+part+"."+field) {
					t.Errorf("docs/configuration.md does not have %s.%s of %s", part, field, kind)
				}
			}
		}
	}
}

// property is a field of a CRD's schema.
type property struct {
	Description string              `json:"description"`
	Properties  map[string]property `json:"properties"`
	Items       *property           `json:"items"`
}

// unexplained are the fields of which `kubectl explain` has nothing to say.
func (p property) unexplained(path string) (found []string) {
	for name, field := range p.Properties {
		if field.Description == "" && path+"."+name != ".metadata" { // Kubernetes explains that one
			found = append(found, path+"."+name)
		}
		found = append(found, field.unexplained(path+"."+name)...)
	}
	if p.Items != nil {
		found = append(found, p.Items.unexplained(path+"[]")...)
	}
	return found
}

func TestEveryFieldExplainsItself(t *testing.T) {
	for _, kind := range []string{"meshnodes", "ippools", "meshconfigs", "nodeblocks"} {
		var crd struct {
			Spec struct {
				Versions []struct {
					Schema struct {
						OpenAPIV3Schema property `json:"openAPIV3Schema"`
					} `json:"schema"`
				} `json:"versions"`
			} `json:"spec"`
		}
		if err := yaml.Unmarshal([]byte(read(t, "crds/weftnet.io_"+kind+".yaml")), &crd); err != nil {
			t.Fatal(err)
		}
		schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		if len(schema.Properties["spec"].Properties) == 0 {
			t.Fatalf("%s: no field was found", kind)
		}
		if found := schema.unexplained(""); len(found) > 0 {
			t.Errorf("kubectl explain %s says nothing of %v", kind, found)
		}
	}
}

func TestEveryReasonIsDocumented(t *testing.T) {
	page := read(t, "docs/operations.md")
	reasons := matches(source(t, "crds", "agent/status", "agent/desired"), `(?m)^\s*(?:R|r)eason\w+\s+= "(\w+)"`)
	if len(reasons) < 15 {
		t.Fatalf("only %d reasons found in the source", len(reasons))
	}
	for _, reason := range reasons {
		if !regexp.MustCompile(`\b` + reason + `\b`).MatchString(page) {
			t.Errorf("docs/operations.md does not say what to do about %s", reason)
		}
	}
}

func TestMetricsExist(t *testing.T) {
	inSource := matches(source(t, "agent", "operator", "wireguard", "cni"), `"(weftnet_[a-z_]+)"`)
	page := read(t, "docs/operations.md")
	for _, metric := range inSource {
		if !strings.Contains(page, "`"+metric+"`") {
			t.Errorf("docs/operations.md does not have the metric %s", metric)
		}
	}
	used := page + read(t, "helm/weftnet/files/alerts.yaml") + read(t, "helm/weftnet/files/dashboards/weftnet.json") + source(t, "cli")
	for _, metric := range matches(used, `\b(weftnet_[a-z_]+)`) {
		base := metric
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			base = strings.TrimSuffix(base, suffix)
		}
		if !slices.Contains(inSource, base) {
			t.Errorf("%s is used in a page, an alert, the dashboard or the cli, and nothing makes it", metric)
		}
	}
}

func TestEveryAlertIsDocumented(t *testing.T) {
	page := read(t, "docs/operations.md")
	alerts := matches(read(t, "helm/weftnet/files/alerts.yaml"), `- alert: (\w+)`)
	if len(alerts) == 0 {
		t.Fatal("no alert found")
	}
	for _, alert := range alerts {
		if !strings.Contains(page, "| "+alert+" |") {
			t.Errorf("docs/operations.md does not say what to do on %s", alert)
		}
	}
}

func TestLinksAndTargetsExist(t *testing.T) {
	targets := matches(read(t, "Makefile"), `(?m)^([a-z0-9-]+):`)
	for name, text := range pages(t) {
		for _, link := range matches(text, `\]\(([^)#]+)[^)]*\)`) {
			if strings.Contains(link, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), link)); err != nil {
				t.Errorf("%s links to %s: %v", name, link, err)
			}
		}
		for _, target := range matches(text, "`make ([a-z0-9-]+)") {
			if !slices.Contains(targets, target) {
				t.Errorf("%s names `make %s`, which the Makefile has not", name, target)
			}
		}
	}
}

// TestHelpExplainsEveryTarget : a target that people may call has a line in `make help`.
func TestHelpExplainsEveryTarget(t *testing.T) {
	makefile := read(t, "Makefile")
	explained := matches(makefile, `(?m)^([a-z0-9-]+):.*## `)
	for _, target := range matches(makefile, `(?m)^\.PHONY: ([a-z0-9-]+)$`) {
		if !slices.Contains(explained, target) {
			t.Errorf("`make help` does not explain %s", target)
		}
	}
}
