package mailer

import (
	"mime"
	"strings"
)

const octetStream = "application/octet-stream"

// parseContentType takes a media type apart. The parameters that are ours are
// left out.
func parseContentType(s, field string) (string, map[string]string, error) {
	if code, fault := textFault(s); fault != "" {
		return "", nil, invalidf(field, code, "content type %s", fault)
	}
	t, params, err := mime.ParseMediaType(s)
	major, minor, ok := strings.Cut(t, "/")
	if err != nil || !ok || major == "" || minor == "" || strings.ContainsAny(minor, "/*") || strings.Contains(major, "*") || len(t) > 255 {
		return "", nil, invalidf(field, "bad_content_type", "content type %s is not valid", excerpt(s))
	}
	delete(params, "name")
	delete(params, "boundary")
	for k, v := range params {
		if !isASCII(k+v) || strings.ContainsAny(k, "*'%") || len(k) > maxHeaderName {
			return "", nil, invalidf(field, "bad_content_type", "content type %s has a parameter that is not valid", excerpt(s))
		}
		// RFC 2231 can smuggle in, percent-encoded, what was refused above.
		if code, fault := textFault(v); fault != "" {
			return "", nil, invalidf(field, code, "parameter %s of the content type %s", k, fault)
		}
	}
	return t, params, nil
}

// typesByExtension does not depend on the machine, as the table of package mime
// does.
var typesByExtension = map[string]string{
	".7z":   "application/x-7z-compressed",
	".avif": "image/avif",
	".bmp":  "image/bmp",
	".css":  "text/css",
	".csv":  "text/csv",
	".doc":  "application/msword",
	".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	".eml":  "message/rfc822",
	".gif":  "image/gif",
	".gz":   "application/gzip",
	".heic": "image/heic",
	".htm":  "text/html",
	".html": "text/html",
	".ics":  "text/calendar",
	".jpeg": "image/jpeg",
	".jpg":  "image/jpeg",
	".json": "application/json",
	".md":   "text/markdown",
	".mov":  "video/quicktime",
	".mp3":  "audio/mpeg",
	".mp4":  "video/mp4",
	".odp":  "application/vnd.oasis.opendocument.presentation",
	".ods":  "application/vnd.oasis.opendocument.spreadsheet",
	".odt":  "application/vnd.oasis.opendocument.text",
	".p7m":  "application/pkcs7-mime",
	".p7s":  "application/pkcs7-signature",
	".pdf":  "application/pdf",
	".png":  "image/png",
	".ppt":  "application/vnd.ms-powerpoint",
	".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
	".rtf":  "application/rtf",
	".svg":  "image/svg+xml",
	".tar":  "application/x-tar",
	".tif":  "image/tiff",
	".tiff": "image/tiff",
	".tsv":  "text/tab-separated-values",
	".txt":  "text/plain",
	".vcf":  "text/vcard",
	".wav":  "audio/wav",
	".webm": "video/webm",
	".webp": "image/webp",
	".xls":  "application/vnd.ms-excel",
	".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
	".xml":  "application/xml",
	".zip":  "application/zip",
}

// extensionOf returns the extension for a content type. Where a type has
// several, the shortest wins, then the first in the alphabet.
func extensionOf(contentType string) string {
	best := ""
	for ext, t := range typesByExtension {
		if t == contentType && (best == "" || len(ext) < len(best) || len(ext) == len(best) && ext < best) {
			best = ext
		}
	}
	if best == "" {
		return ".bin"
	}
	return best
}
