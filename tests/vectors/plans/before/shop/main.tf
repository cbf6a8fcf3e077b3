variable "image" { type = string }

resource "terraform_data" "service" {
  input = { image = var.image }
}
