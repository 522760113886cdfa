package tokens

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// preset is what a vendor's providers have in common. In URLs {directory}
// stands for the directory (Microsoft's tenant). Vendors' documents are named
// at each preset.
type preset struct {
	// provider is what all grants share.
	provider Provider
	// scopes are what is asked for, by grant. A grant without any is impossible
	// there.
	scopes map[Grant][]string
	// instead says for an impossible grant why, and what to do.
	instead map[Grant]string
	// hasDirectory: the URLs have one.
	hasDirectory bool
	// directory is used where none is given; empty: one must be given.
	directory string
	// directories are all that there can be; none for any.
	directories []string
}

// presets are the vendors that are known by name.
var presets = map[string]preset{
	"microsoft":        microsoft,
	"microsoft-us-gov": microsoftUSGov,
	"microsoft-us-dod": microsoftUSDoD,
	"microsoft-china":  microsoftChina,
	"outlook":          outlook,
	"google":           google,
	"yahoo":            yahoo,
	"aol":              aol,
	"fastmail":         fastmail,
}

// directoryForm is a tenant's id or domain: what can stand in a URL's path.
var directoryForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Presets returns the names that [FromPreset] knows.
func Presets() []string { return slices.Sorted(maps.Keys(presets)) }

// FromPreset returns a vendor's endpoints, scopes and ways for a grant. The
// caller adds the client registration. An error says what the vendor does not
// have, and what to do instead.
func FromPreset(name, directory string, g Grant) (Provider, error) {
	p, ok := presets[name]
	if !ok {
		return Provider{}, fmt.Errorf("unknown preset %q; there are %s", name, strings.Join(Presets(), ", "))
	}
	scopes, possible := p.scopes[g]
	if !possible {
		return Provider{}, fmt.Errorf("preset %s has no grant %s: %s", name, g, p.instead[g])
	}
	directory, err := p.pick(directory)
	if err != nil {
		return Provider{}, fmt.Errorf("preset %s: directory %w", name, err)
	}
	if g == GrantClientCredentials && slices.Contains(sharedDirectories, directory) {
		// AADSTS9001023
		return Provider{}, fmt.Errorf("grant %s needs the directory of one organization, its id or domain: nobody can permit an application for %s", g, directory)
	}
	v := p.provider
	v.Grant = g
	for _, u := range []*string{&v.AuthorizationEndpoint, &v.TokenEndpoint, &v.DeviceAuthorizationEndpoint, &v.AdminConsentEndpoint} {
		*u = strings.ReplaceAll(*u, "{directory}", directory)
	}
	if slices.Contains(personalDirectories, directory) {
		v.AdminConsentEndpoint = "" // personal accounts have no administrator
	}
	v.Scopes = slices.Clone(scopes)
	v.Servers = slices.Clone(v.Servers)
	v.AuthParams = maps.Clone(v.AuthParams)
	return v, nil
}

// pick returns the directory to use.
func (p preset) pick(directory string) (string, error) {
	if !p.hasDirectory {
		if directory != "" {
			return "", errors.New("has no use there")
		}
		return "", nil
	}
	if directory == "" {
		directory = p.directory
	}
	switch {
	case directory == "":
		return "", errors.New("is missing: it is the tenant's id or domain, such as contoso.onmicrosoft.com")
	case !directoryForm.MatchString(directory):
		return "", fmt.Errorf("%q must be a tenant's id or domain", directory)
	case len(p.directories) > 0 && !slices.Contains(p.directories, directory):
		return "", fmt.Errorf("%q must be one of %s; an organization's mailboxes need preset microsoft", directory, strings.Join(p.directories, ", "))
	}
	return directory, nil
}
