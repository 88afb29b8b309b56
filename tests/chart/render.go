// Renders a chart as `helm template` does, and prints what came of it as JSON:
//
//	{"documents": [{"path": ..., "object": ...}], "text": ..., "notes": ...}
//
// A refusal goes to stderr, as Helm words it. As in Helm (pkg/chartutil, pkg/engine): values of the chart under those of its
// parent under those given; null deletes; values are held against the schemas before anything is rendered; each chart has a
// scope of its own and all share their definitions, of which those nearer to the root win; partials and NOTES.txt are no
// manifests.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/semver"
	"github.com/Masterminds/sprig"
	"github.com/xeipuuv/gojsonschema"
	"sigs.k8s.io/yaml"
)

type table = map[string]interface{}

// Values, Files and Versions have names of their own, as in Helm, where templates meet them as such.
type Values map[string]interface{}
type Files map[string][]byte
type Versions []string

func (v Versions) Has(version string) bool {
	for _, one := range v {
		if one == version {
			return true
		}
	}
	return false
}

func (f Files) Get(name string) string { return string(f[name]) }
func (f Files) Glob(pattern string) Files {
	found := Files{}
	for name, data := range f {
		if ok, _ := path.Match(pattern, name); ok {
			found[name] = data
		}
	}
	return found
}
func (f Files) AsConfig() string {
	texts := map[string]string{}
	for name, data := range f {
		texts[path.Base(name)] = string(data)
	}
	if len(texts) == 0 {
		return ""
	}
	return toYaml(texts)
}
func (f Files) Lines(name string) []string {
	return strings.Split(strings.TrimSuffix(string(f[name]), "\n"), "\n")
}

type dependency struct{ Name, Alias, Condition, Repository string }
type metadata struct {
	Name, Version, AppVersion, Type, KubeVersion string
	Dependencies                                 []dependency
}
type chart struct {
	metadata
	isRoot    bool
	place     string // such as parent/charts/weir
	values    table
	schema    []byte
	files     Files
	templates map[string]string
	subcharts []*chart
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// -- loading ----------------------------------------------------------------------------------------------------------

// The patterns of .helmignore that are used here: NAME, *.SUFFIX and DIRECTORY/.
func isIgnored(patterns []string, name string) bool {
	for _, pattern := range patterns {
		pattern = strings.TrimSuffix(strings.TrimSpace(pattern), "/")
		if pattern == "" || pattern[0] == '#' {
			continue
		}
		for _, part := range strings.Split(name, "/") {
			if ok, _ := path.Match(pattern, part); ok {
				return true
			}
		}
	}
	return false
}

func load(directory, place, alias string) *chart {
	c := &chart{place: place, isRoot: place == "", values: table{}, files: Files{}, templates: map[string]string{}}
	all := Files{}
	check(filepath.WalkDir(directory, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			relative, _ := filepath.Rel(directory, name)
			all[relative], err = os.ReadFile(name)
		}
		return err
	}))
	patterns := all.Lines(".helmignore")
	for name, data := range all {
		switch {
		case name == "Chart.yaml":
			check(yaml.Unmarshal(data, &c.metadata))
		case name == "values.yaml":
			check(yaml.Unmarshal(data, &c.values))
		case name == "values.schema.json":
			c.schema = data
		case isIgnored(patterns, name):
		case strings.HasPrefix(name, "templates/"):
			c.templates[name] = string(data)
		default:
			c.files[name] = data
		}
	}
	if alias != "" {
		c.Name = alias
	}
	c.place = path.Join(place, c.Name)
	for _, d := range c.Dependencies {
		if !strings.HasPrefix(d.Repository, "file://") {
			check(fmt.Errorf("dependency %s: only file:// is known here", d.Name))
		}
		sub := load(filepath.Join(directory, strings.TrimPrefix(d.Repository, "file://")), path.Join(c.place, "charts"), d.Alias)
		c.subcharts = append(c.subcharts, sub)
	}
	return c
}

// -- values -----------------------------------------------------------------------------------------------------------

// Puts what `over` lacks into it; a null there deletes, unless it may still be needed to delete in a subchart.
func coalesce(over, under table, isFinal bool) {
	for key, value := range under {
		mine, has := over[key]
		if !has {
			over[key] = value
		} else if mine == nil && isFinal {
			delete(over, key)
		} else if a, ok := mine.(table); ok {
			if b, ok := value.(table); ok {
				coalesce(a, b, isFinal)
			}
		}
	}
}

func (c *chart) coalesceValues(values table) {
	coalesce(values, c.values, true)
	global, _ := values["global"].(table)
	for _, sub := range c.subcharts {
		own, ok := values[sub.Name].(table)
		if !ok {
			own = table{}
			values[sub.Name] = own
		}
		shared := table{}
		coalesce(shared, global, false)
		if mine, ok := own["global"].(table); ok {
			coalesce(shared, mine, false)
		}
		own["global"] = shared
		sub.coalesceValues(own)
	}
}

// Dependencies whose condition is false are not there at all.
func (c *chart) dropDisabled(values table) {
	kept := c.subcharts[:0]
	for i, sub := range c.subcharts {
		var value interface{} = values
		for _, key := range strings.Split(c.Dependencies[i].Condition, ".") {
			t, _ := value.(table)
			value = t[key]
		}
		if value != false {
			kept = append(kept, sub)
		}
	}
	c.subcharts = kept
}

func (c *chart) validate(values table) (found string) {
	if c.schema != nil {
		document, err := json.Marshal(values)
		check(err)
		result, err := gojsonschema.Validate(gojsonschema.NewBytesLoader(c.schema), gojsonschema.NewBytesLoader(document))
		check(err)
		if !result.Valid() {
			found += c.Name + ":\n"
			for _, one := range result.Errors() {
				found += fmt.Sprintf("- %s\n", one)
			}
		}
	}
	for _, sub := range c.subcharts {
		own, _ := values[sub.Name].(table)
		found += sub.validate(own)
	}
	return found
}

// -- rendering --------------------------------------------------------------------------------------------------------

func toYaml(value interface{}) string {
	data, _ := yaml.Marshal(value) // as in Helm, what cannot be written is empty
	return strings.TrimSuffix(string(data), "\n")
}

func toJson(value interface{}) string {
	data, _ := json.Marshal(value)
	return string(data)
}

func unmarshalYaml(data []byte, into interface{}) error { return yaml.Unmarshal(data, into) }

func parser(unmarshal func([]byte, interface{}) error) func(string) table {
	return func(text string) table {
		value := table{}
		if err := unmarshal([]byte(text), &value); err != nil {
			value["Error"] = err.Error()
		}
		return value
	}
}

func fromYamlArray(text string) []interface{} {
	value := []interface{}{}
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		value = []interface{}{err.Error()}
	}
	return value
}

func execute(t *template.Template, name string, data interface{}) (string, error) {
	var out strings.Builder
	err := t.ExecuteTemplate(&out, name, data)
	return strings.ReplaceAll(out.String(), "<no value>", ""), err
}

func functions(t *template.Template) template.FuncMap {
	f := sprig.TxtFuncMap()
	delete(f, "env")
	delete(f, "expandenv")
	depth := map[string]int{}
	f["include"] = func(name string, data interface{}) (string, error) {
		if depth[name]++; depth[name] > 1000 {
			return "", fmt.Errorf("%s includes itself", name)
		}
		defer func() { depth[name]-- }()
		return execute(t, name, data)
	}
	f["tpl"] = func(text string, data interface{}) (string, error) {
		copied, err := t.Clone()
		if err == nil {
			_, err = copied.New("tpl").Funcs(functions(copied)).Parse(text)
		}
		if err != nil {
			return "", err
		}
		return execute(copied, "tpl", data)
	}
	f["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return value, errors.New(message)
		}
		return value, nil
	}
	f["lookup"] = func(string, string, string, string) table { return table{} }
	f["toYaml"], f["fromYaml"], f["fromYamlArray"] = toYaml, parser(unmarshalYaml), fromYamlArray
	f["toJson"], f["fromJson"] = toJson, parser(json.Unmarshal)
	return f
}

// The scope and the text of each template, by its whole path.
func (c *chart) scopes(values, shared table, into map[string]table, texts map[string]string) table {
	about := table{"Name": c.Name, "Version": c.Version, "AppVersion": c.AppVersion, "Type": c.Type, "IsRoot": c.isRoot}
	subcharts := table{}
	scope := table{"Chart": about, "Files": c.files, "Values": Values(values), "Subcharts": subcharts}
	for key, value := range shared {
		scope[key] = value
	}
	for _, sub := range c.subcharts {
		own, _ := values[sub.Name].(table)
		subcharts[sub.Name] = sub.scopes(own, shared, into, texts)
	}
	for name, text := range c.templates {
		if c.Type != "library" || strings.HasPrefix(path.Base(name), "_") {
			into[path.Join(c.place, name)] = scope
			texts[path.Join(c.place, name)] = text
		}
	}
	return scope
}

func (c *chart) render(values, shared table) (manifests map[string]string, notes string) {
	scopes, texts := map[string]table{}, map[string]string{}
	c.scopes(values, shared, scopes, texts)
	names := []string{}
	for name := range scopes {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool { // the deepest first, so that what a parent defines replaces it
		a, b := strings.Count(names[i], "/"), strings.Count(names[j], "/")
		return a > b || a == b && names[i] > names[j]
	})
	t := template.New("gotpl").Option("missingkey=zero")
	t.Funcs(functions(t))
	for _, name := range names {
		_, err := t.New(name).Parse(texts[name])
		check(err)
	}
	manifests = map[string]string{}
	for _, name := range names {
		base := path.Base(name)
		if strings.HasPrefix(base, "_") {
			continue
		}
		scopes[name]["Template"] = table{"Name": name, "BasePath": name[:strings.Index(name, "/templates/")+len("/templates")]}
		text, err := execute(t, name, scopes[name])
		check(err)
		if base != "NOTES.txt" {
			manifests[name] = text
		} else if name == path.Join(c.Name, "templates", base) {
			notes = text
		}
	}
	return manifests, notes
}

func main() {
	release := flag.String("name", "test", "")
	namespace := flag.String("namespace", "default", "")
	kube := flag.String("kube", "v1.29.0", "")
	apis := flag.String("apis", "v1,apps/v1", "of the cluster, with commas")
	given := flag.String("values", "{}", "YAML")
	flag.Parse()

	values := table{}
	check(yaml.Unmarshal([]byte(*given), &values))
	c := load(flag.Arg(0), "", "")
	if c.KubeVersion != "" {
		constraint, err := semver.NewConstraint(c.KubeVersion)
		check(err)
		if !constraint.Check(semver.MustParse(*kube)) {
			check(fmt.Errorf("chart requires kubeVersion: %s which is incompatible with Kubernetes %s", c.KubeVersion, *kube))
		}
	}
	c.coalesceValues(values)
	c.dropDisabled(values)
	if found := c.validate(values); found != "" {
		check(fmt.Errorf("values don't meet the specifications of the schema(s) in the following chart(s):\n%s", found))
	}
	manifests, notes := c.render(values, table{
		"Release":      table{"Name": *release, "Namespace": *namespace, "Service": "Helm", "IsInstall": true, "Revision": 1},
		"Capabilities": table{"APIVersions": Versions(strings.Split(*apis, ",")), "KubeVersion": table{"Version": *kube}},
	})

	paths := []string{}
	for name := range manifests {
		paths = append(paths, name)
	}
	sort.Strings(paths)
	documents, whole := []table{}, ""
	for _, name := range paths {
		for _, text := range regexp.MustCompile(`(?:^|\s*\n)---\s*`).Split(manifests[name], -1) {
			if strings.TrimSpace(text) == "" {
				continue
			}
			var object interface{}
			if err := yaml.UnmarshalStrict([]byte(text), &object); err != nil {
				check(fmt.Errorf("%s: %v\n%s", name, err, text))
			}
			if object != nil {
				documents = append(documents, table{"path": name, "object": object})
				whole += fmt.Sprintf("---\n# Source: %s\n%s\n", name, text)
			}
		}
	}
	check(json.NewEncoder(os.Stdout).Encode(table{"documents": documents, "text": whole, "notes": notes}))
}
