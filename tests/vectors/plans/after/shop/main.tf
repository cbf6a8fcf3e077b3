variable "image" { type = string }

resource "terraform_data" "service" {
  input = { image = var.image }
}

resource "terraform_data" "hook" {
  count            = 1
  triggers_replace = [terraform_data.service.input.image]
  provisioner "local-exec" {
    command = "echo deployed"
  }
}
